"""The paper's target: the class of each pixel (arXiv 1505.04597, section 3).

The label says it all; there is no further plane.
"""

import numpy as np

VERSION = 1
PLANES = 0
PLANES_ARE = "scalars"


def reach_px(instances: np.ndarray, zoom: float = 1.0) -> int:
    """Nothing is looked up around a pixel."""
    return 0


def render(instances: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """No planes: uint8 [H, W, 0]."""
    return np.zeros((*classes.shape, 0), np.uint8)
