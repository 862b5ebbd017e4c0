"""Shards to batches: reading order, parsing, and whole frames for validation."""
