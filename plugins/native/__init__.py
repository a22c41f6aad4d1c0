"""The op library: C++ kernels (cpu/), ONNX Runtime adapters (ort/), and the Python that builds it."""
