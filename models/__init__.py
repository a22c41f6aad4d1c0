"""What is exported: sources, tasks and model families."""
