"""Stands before pandas on the path of processes that tests start.

As sklearn.py beside: Keras loads it wherever it is installed. Users don't have it:
py-ctcmetrics brings it along, which tests alone need.
"""

raise ImportError("left out by tests/lean")
