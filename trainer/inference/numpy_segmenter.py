"""`Segmenter` in NumPy, for networks that run outside TensorFlow.

The same steps on one image: normalise, cut tiles from the mirrored image, stitch,
average over the symmetries. H, W pixels, C channels, K classes.
"""

import itertools
from collections.abc import Callable

import numpy as np

from trainer.inference.symmetry import SYMMETRIES, Symmetry
from unet_tfrecords.dataset import tiling
from unet_tfrecords.dataset.pixel_statistics import strips


def normalise(image: np.ndarray) -> np.ndarray:
    """`segmenter.normalise_images` of one image, float32 [H, W, C].

    Each channel gets mean 0 and deviation 1; a constant channel becomes 0.
    """
    # Computed from the first pixel's value, which is exact for constant images and for
    # small contrasts on a large offset.
    image = image.astype(np.float32)
    image -= image[0, 0].copy()
    mean = image.mean((0, 1), dtype=np.float64)
    # NumPy's own std would make a float64 copy of the image.
    squares = sum(np.square(some - mean).sum((0, 1)) for some in strips(image))
    std = np.sqrt(squares / image[..., 0].size).astype(np.float32)
    image -= mean.astype(np.float32)
    image /= np.where(std > 0, std, np.float32(1))
    return image


def segment(
    image: np.ndarray,
    network: Callable[[np.ndarray], np.ndarray],
    *,
    depth: int,
    classes: int,
    tile: int,
    tta: bool = False,
) -> np.ndarray:
    """Computes the probabilities of an image.

    Args:
      image: float32 [H, W, C], as the network takes it.
      network: legal tile [h, w, C] to probabilities [h - border, w - border, K].
      depth: its poolings.
      classes: its classes.
      tile: the largest tile, px.
      tta: averages over the eight symmetries of the square.

    Returns:
      float32 [H, W, K].
    """
    around = tiling.border(depth) + 4  # see inference_grid on the 4
    pad, largest = tiling.pad(depth), tiling.output_size(tile, depth)

    def stitched(image: np.ndarray) -> np.ndarray:
        """Probabilities tile by tile."""
        height, width = image.shape[:2]
        rows, down = tiling.inference_grid(height, largest, depth)
        columns, across = tiling.inference_grid(width, largest, depth)
        whole = np.empty((rows * down, columns * across, classes), np.float32)
        for row, column in itertools.product(range(rows), range(columns)):
            top, left = row * down, column * across
            ys = tiling.mirror_indices(top - pad, top - pad + down + around, height)
            xs = tiling.mirror_indices(left - pad, left - pad + across + around, width)
            tile_probabilities = network(image[ys[:, None], xs])[:down, :across]
            whole[top : top + down, left : left + across] = tile_probabilities
        return whole[:height, :width]

    if not tta:
        return stitched(image)
    total = np.zeros((*image.shape[:2], classes), np.float32)
    for symmetry in SYMMETRIES:
        total += _undo(symmetry, stitched(_apply(symmetry, image)))
    total /= len(SYMMETRIES)
    return total


def _apply(symmetry: Symmetry, image: np.ndarray) -> np.ndarray:
    if symmetry.transposed:
        image = image.transpose(1, 0, 2)
    return np.flip(image, _axes(symmetry))


def _undo(symmetry: Symmetry, image: np.ndarray) -> np.ndarray:
    image = np.flip(image, _axes(symmetry))
    return image.transpose(1, 0, 2) if symmetry.transposed else image


def _axes(symmetry: Symmetry) -> tuple[int, ...]:
    """The axes of an image without a batch."""
    return tuple(axis - 1 for axis in symmetry.axes)
