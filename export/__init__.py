"""PyTorch to ONNX: export and verification against eager PyTorch."""
