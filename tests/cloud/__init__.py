"""Clouds on loopback, for tests: what can't be reached from here, as far as it goes."""
