"""Microscopy images and labels in, augmented overlap-tile TFRecord shards out.

Nothing in here imports TensorFlow, so that a Beam worker stays small.
"""
