"""Operator fusion for a target: the only place where target-specific ops enter the graph."""
