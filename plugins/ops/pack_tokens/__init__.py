"""pack_tokens."""
