"""Segmentations drawn for scores."""

import numpy as np


def block(*boxes, size=(40, 40)) -> np.ndarray:
    """An instance map of rectangles, numbered from 1."""
    found = np.zeros(size, int)
    for number, (top, left, bottom, right) in enumerate(boxes, start=1):
        found[top:bottom, left:right] = number
    return found


def membranes(width: int) -> np.ndarray:
    """Interior of four cells in a frame of 60 px, membranes between so wide."""
    interior = np.ones((60, 60), bool)
    low = 30 - width // 2
    interior[low : low + width] = interior[:, low : low + width] = False
    return interior
