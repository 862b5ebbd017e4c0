"""Shim: all metadata is in pyproject.toml.

Beam's `--setup_file ./setup.py` (Dataflow) wants this file.
"""

from setuptools import setup

setup()
