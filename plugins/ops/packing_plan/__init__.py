"""packing_plan."""
