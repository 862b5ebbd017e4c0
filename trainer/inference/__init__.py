"""Whole images through the network, and instances from probabilities."""
