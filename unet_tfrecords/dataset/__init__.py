"""The contents of a data set on disk, as preprocess writes and the trainer reads it."""
