"""The trainer's commands: one module each, with its flags and what it calls.

TensorFlow is loaded when a command runs, not before.
"""
