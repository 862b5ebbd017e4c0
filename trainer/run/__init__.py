"""A run on disk: its work directory and checkpoints."""
