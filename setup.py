"""Shim: all metadata is in pyproject.toml; Beam's `--setup_file ./setup.py` wants this.

A Dataflow worker installs what the base dependencies name (apache-beam, numpy,
google-cloud-storage, absl-py and the image libraries). The extras cpu, gpu and io add
tensorflow, io also tensorflow-io. Each floor has its reason beside it there.
"""

from setuptools import setup

setup()
