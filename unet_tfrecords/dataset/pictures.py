"""Pictures of images, labels and results for people to look at.

One palette, one contrast stretch and one way to mark errors, wherever a picture is
drawn: previews, validation, the report and predict's overlays.
"""

import cv2
import numpy as np

from unet_tfrecords.dataset.records import UNLABELLED

# Colour-blind safe (Okabe and Ito, 2008), one a class after the background; RGB.
COLOURS = np.array(
    [(230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167), (213, 94, 0)],
    np.uint8,
)
EXTRA, MISSED = COLOURS[0], COLOURS[1]  # foreground too many; foreground not found
UNLABELLED_COLOUR = np.array((240, 228, 66), np.uint8)
TINT = 0.3  # share of the colour inside an object; outlines are all colour
# What each grey level becomes under a tint, for cv2.LUT: uint8 [colours, 1, 256, 3].
_TINTED = (np.arange(256)[:, None] * (1 - TINT) + COLOURS[:, None, None] * TINT).astype(
    np.uint8
)


def hex_colour(colour: np.ndarray) -> str:
    """A colour as HTML and Matplotlib take it.

    >>> hex_colour(COLOURS[0])
    '#e69f00'
    """
    return "#" + bytes(colour.tolist()).hex()


def grey_levels(image: np.ndarray) -> np.ndarray:
    """Stretches the contrast of an image: its 0.5 % darkest pixels become black.

    Args:
      image: uint8 or uint16 [H, W, C]; unless C is 3, the first channel is shown.

    Returns:
      uint8 RGB [H, W, 3].
    """
    seen = image if image.shape[2] == 3 else image[..., :1]
    low, high = np.percentile(seen, (0.5, 99.5))
    values = np.arange(np.iinfo(image.dtype).max + 1)
    table = np.clip((values - low) / max(high - low, 1e-6) * 255, 0, 255)
    picture = np.empty((*image.shape[:2], 3), np.uint8)
    picture[:] = table.astype(np.uint8).take(seen)
    return picture


def overlay(
    image: np.ndarray, classes: np.ndarray, instances: np.ndarray | None = None
) -> np.ndarray:
    """Tints and outlines classes, or instances, in an image.

    Args:
      image: uint8 or uint16 [H, W, C].
      classes: uint8 [H, W].
      instances: integer [H, W]; if given, each has a colour.

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


def error_map(image: np.ndarray, truth: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Marks where a result differs from the truth.

    Args:
      image: uint8 or uint16 [H, W, C].
      truth: uint8 [H, W], 255 is unlabelled.
      classes: uint8 [H, W].

    Returns:
      uint8 RGB [H, W, 3]: orange where foreground was found and is not, blue where it
      was missed, white where one class was taken for another; unlabelled is dark.
    """
    picture = (grey_levels(image) * 0.6).astype(np.uint8)
    labelled = truth != UNLABELLED
    true, found = truth > 0, classes > 0
    picture[labelled & found & ~true] = EXTRA
    picture[labelled & true & ~found] = MISSED
    picture[labelled & true & found & (classes != truth)] = 255
    picture[~labelled] //= 3
    return picture


def heat_map(values: np.ndarray) -> np.ndarray:
    """Colours float [H, W] from 0 to 1 by viridis: uint8 RGB [H, W, 3]."""
    levels = (np.nan_to_num(values).clip(0, 1) * 255).astype(np.uint8)
    return cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)[..., ::-1]


def shrunk(picture: np.ndarray, longest_px: int) -> np.ndarray:
    """A picture [H, W, 3] whose edges have at most `longest_px` pixels."""
    scale = longest_px / max(picture.shape[:2])
    if scale >= 1:
        return picture
    size = [max(1, round(edge * scale)) for edge in picture.shape[1::-1]]
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _outline(shown: np.ndarray) -> np.ndarray:
    """bool [H, W]: pixels inside, beside one of another number."""
    numbers = shown.astype(np.float32)  # OpenCV's morphology has no int32
    kernel = np.ones((3, 3), np.uint8)
    return (cv2.morphologyEx(numbers, cv2.MORPH_GRADIENT, kernel) > 0) & (shown > 0)
