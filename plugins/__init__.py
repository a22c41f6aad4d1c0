"""Ops (definition, reference, function body, kernels), bundles, and the sessions that run them."""
