"""Rooms that preprocess and trainer share: storage, command and dataset."""
