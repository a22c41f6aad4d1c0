"""unpack_tokens."""
