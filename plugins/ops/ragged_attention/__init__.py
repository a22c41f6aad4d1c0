"""ragged_attention."""
