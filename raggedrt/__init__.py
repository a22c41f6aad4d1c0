"""RaggedRT: transformers in ONNX Runtime and TensorRT without time spent on padding."""
