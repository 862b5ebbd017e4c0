"""Pages that people look at: one a run, and one that compares runs."""
