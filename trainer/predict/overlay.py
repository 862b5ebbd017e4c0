"""Pictures of what a model says, to look at."""

import cv2
import numpy as np

# Colour-blind safe (Okabe and Ito), one a class after the background; RGB.
COLOURS = np.array(
    [(230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167), (213, 94, 0)],
    np.uint8,
)


TINT = 0.3  # its share inside; outlines are all tint
# What each grey level becomes under a tint, for cv2.LUT: uint8 [colours, 1, 256, 3].
_TINTED = (np.arange(256)[:, None] * (1 - TINT) + COLOURS[:, None, None] * TINT).astype(
    np.uint8
)


def overlay(
    image: np.ndarray, classes: np.ndarray, instances: np.ndarray | None = None
) -> np.ndarray:
    """The image with classes, or instances, tinted and outlined.

    Args:
      image: uint8 or uint16 [H, W, C].
      classes: uint8 [H, W].
      instances: integer [H, W]; where given, each has a colour.

    Returns:
      uint8 RGB [H, W, 3].
    """
    shown = classes if instances is None else instances
    picture = grey_levels(image)
    outline = _outline(shown)
    which = (shown - 1) % len(COLOURS)
    for number, colour in enumerate(COLOURS):
        inside = (shown > 0) & (which == number)
        if inside.any():
            tinted = cv2.LUT(picture, _TINTED[number])
            cv2.copyTo(tinted, inside.view(np.uint8), picture)
            picture[outline & inside] = colour
    return picture


def grey_levels(image: np.ndarray) -> np.ndarray:
    """Intensities stretched for the eye.

    Args:
      image: uint8 or uint16 [H, W, C]; of other than 3 channels the first is shown.

    Returns:
      uint8 [H, W, 3].
    """
    seen = image if image.shape[2] == 3 else image[..., :1]
    low, high = np.percentile(seen, (0.5, 99.5))
    values = np.arange(np.iinfo(image.dtype).max + 1)
    table = np.clip((values - low) / max(high - low, 1e-6) * 255, 0, 255)
    picture = np.empty((*image.shape[:2], 3), np.uint8)
    picture[:] = table.astype(np.uint8).take(seen)
    return picture


def _outline(shown: np.ndarray) -> np.ndarray:
    """bool [H, W]: pixels inside, beside one of another number."""
    numbers = shown.astype(np.float32)  # OpenCV's morphology has no int32
    kernel = np.ones((3, 3), np.uint8)
    return (cv2.morphologyEx(numbers, cv2.MORPH_GRADIENT, kernel) > 0) & (shown > 0)
