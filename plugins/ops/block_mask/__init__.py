"""block_mask."""
