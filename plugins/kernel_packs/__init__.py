"""Device kernels as packs: which variants there are, how they are compiled, the files that carry them."""
