"""attention_plan."""
