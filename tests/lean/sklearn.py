"""Stands before scikit-learn on the path of processes that tests start.

Keras loads it wherever it is installed, a second at each start. Users don't have it:
py-ctcmetrics brings it along, which tests alone need.
"""

raise ImportError("left out by tests/lean")
