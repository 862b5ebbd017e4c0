"""Beam's other engines as real processes on loopback; `.ci/engines` fetches them."""
