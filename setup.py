"""Shim: all metadata is in pyproject.toml; Beam's `--setup_file ./setup.py` wants this.

A Dataflow worker installs what the base dependencies name (apache-beam, numpy,
google-cloud-storage, absl-py and the image libraries); the extras cpu, gpu and io bring
tensorflow, io with tensorflow-io. Floors and reasons stand beside each in pyproject.toml.
"""

from setuptools import setup

setup()
