"""`Segmenter` in NumPy, for networks that run outside TensorFlow.

The same steps on one image: normalise, cut tiles from the mirrored image, stitch,
average over the symmetries. H, W pixels, C channels, K classes.
"""

import functools
import itertools
from collections.abc import Callable

import numpy as np

from trainer.inference.symmetry import SYMMETRIES, Symmetry
from unet_tfrecords.dataset import tiling
from unet_tfrecords.dataset.pixel_statistics import strips
from unet_tfrecords.dataset.regions import Box

ReadPixels = Callable[[slice, slice], np.ndarray]
Network = Callable[[np.ndarray], np.ndarray]


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
    network: Network,
    *,
    depth: int,
    tile: int,
    tta: bool = False,
) -> np.ndarray:
    """Computes the probabilities of an image.

    Args:
      image: float32 [H, W, C], as the network takes it.
      network: legal tile [h, w, C] to probabilities [h - border, w - border, K].
      depth: its poolings.
      tile: the largest tile, px.
      tta: averages over the eight symmetries of the square.

    Returns:
      float32 [H, W, K].
    """

    size = image.shape[:2]
    return segment_window(
        lambda rows, columns: image[rows, columns],
        (0, 0, *size),
        size,
        network,
        depth=depth,
        tile=tile,
        tta=tta,
    )


def segment_window(
    read: ReadPixels,
    box: Box,
    size: tuple[int, int],
    network: Network,
    *,
    depth: int,
    tile: int,
    tta: bool = False,
) -> np.ndarray:
    """The probabilities of a part of an image: those that the whole would have there.

    Args:
      read: gives pixels [h, w, C] of the image, by rows and columns.
      box: the part.
      size: height and width of the image.
      network, depth, tile, tta: as in `segment`.

    Returns:
      float32 [bottom - top, right - left, K].
    """
    if not tta:
        return _stitched(read, box, size, network, depth=depth, tile=tile)
    total = None
    for symmetry in SYMMETRIES:
        turned = functools.partial(_read_turned, read, symmetry, size)
        place = _turned(symmetry, box, size)
        _, _, *sides = _turned(symmetry, (0, 0, *size), size)
        found = _stitched(
            turned, place, (sides[0], sides[1]), network, depth=depth, tile=tile
        )
        made = _undo(symmetry, found)
        total = made if total is None else total + made
    assert total is not None
    return np.divide(total, len(SYMMETRIES), dtype=np.float32)


def _stitched(
    read: ReadPixels,
    box: Box,
    size: tuple[int, int],
    network: Network,
    *,
    depth: int,
    tile: int,
) -> np.ndarray:
    """`segment_window`, tile by tile."""
    # Origins of tiles are multiples of 2**depth, or pooling grids would shift.
    more = box[0] % 2**depth, box[1] % 2**depth
    box = box[0] - more[0], box[1] - more[1], *box[2:]
    around = tiling.border(depth) + 4  # see inference_grid on the 4
    pad, largest = tiling.pad(depth), tiling.output_size(tile, depth)
    sides = [stop - start for start, stop in zip(box[:2], box[2:], strict=True)]
    (rows, down), (columns, across) = (
        tiling.inference_grid(side, largest, depth) for side in sides
    )
    ys, xs = (
        tiling.mirror_indices(start - pad, start - pad + count * stride + around, end)
        for start, count, stride, end in zip(
            box[:2], (rows, columns), (down, across), size, strict=True
        )
    )
    top, left = ys.min(), xs.min()
    pixels = read(slice(top, ys.max() + 1), slice(left, xs.max() + 1))
    whole = None
    for row, column in itertools.product(range(rows), range(columns)):
        own_ys = ys[row * down : (row + 1) * down + around] - top
        own_xs = xs[column * across : (column + 1) * across + around] - left
        made = network(pixels[own_ys[:, None], own_xs])[:down, :across]
        if whole is None:
            whole = np.empty((rows * down, columns * across, made.shape[2]), np.float32)
        there = np.s_[row * down :, column * across :]
        whole[there][:down, :across] = made
    assert whole is not None
    return whole[more[0] : sides[0], more[1] : sides[1]]


def _turned(symmetry: Symmetry, box: Box, size: tuple[int, int]) -> Box:
    """Where a part of an image is once the image has been turned."""
    ends = [(box[0], box[2]), (box[1], box[3])]
    if symmetry.transposed:
        ends, size = ends[::-1], size[::-1]
    for axis in _axes(symmetry):
        start, stop = ends[axis]
        ends[axis] = size[axis] - stop, size[axis] - start
    (top, bottom), (left, right) = ends
    return top, left, bottom, right


def _read_turned(
    read: ReadPixels,
    symmetry: Symmetry,
    size: tuple[int, int],
    rows: slice,
    columns: slice,
) -> np.ndarray:
    """Pixels of the turned image."""
    ends = [rows, columns]
    if symmetry.transposed:
        size = size[::-1]
    for axis in _axes(symmetry):
        side = ends[axis]
        ends[axis] = slice(size[axis] - side.stop, size[axis] - side.start)
    if symmetry.transposed:
        ends = ends[::-1]
    return _apply(symmetry, read(*ends))


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
