"""Distances of pixels, the same each time."""

import cv2
import numpy as np

FAR = 1e18  # px


def distances_to(mask: np.ndarray) -> np.ndarray:
    """How far each pixel is from the nearest pixel of a mask.

    OpenCV's own differ in the last bit with the number of its threads and with where
    an array lies in memory; squares of distances are whole numbers, so they don't have
    to (up to 1,600 px; beyond, the rounding is that of float32).

    Args:
      mask: bool [H, W].

    Returns:
      float32 [H, W], px; FAR everywhere where the mask is empty.
    """
    if not mask.any():  # OpenCV's own value for that overflows when it is squared
        return np.full(mask.shape, FAR, np.float32)
    found = cv2.distanceTransform(
        (~mask).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    )
    np.square(found, out=found)
    np.rint(found, out=found)
    return np.sqrt(found, out=found)
