"""TensorRT: the graph it is handed, optimisation profiles, and engines."""
