"""merge_attention_states."""
