"""One unit becomes its tiles: read, deform, weigh, cut. Pixels are only made here."""

from collections.abc import Iterator
from typing import NamedTuple

import ml_collections
import numpy as np

from preprocess import augment, tiling
from preprocess.plan import Unit, identity_seed
from preprocess.records import UNLABELLED, Tile
from preprocess.sources import Truth, read_frame, read_truth
from preprocess.weights import border_weights, touching_pixels


class Canvas(NamedTuple):
    """The mirror-padded frame's extent, in frame coordinates (ends exclusive).

    The outputs of all tiles cover `[0, bottom - pad)` by `[0, right - pad)`, which is
    the frame, or one tile's output where the frame is smaller.
    """

    pad: int
    bottom: int
    right: int

    @property
    def rows(self) -> tuple[int, int]:
        return -self.pad, self.bottom

    @property
    def columns(self) -> tuple[int, int]:
        return -self.pad, self.right


def canvas_of(height: int, width: int, *, output: int, depth: int) -> Canvas:
    """The extent that all tiles of a frame lie in.

    >>> canvas_of(512, 512, output=388, depth=4).rows  # 696 px
    (-92, 604)
    """
    pad = tiling.pad(depth)
    return Canvas(pad, max(height, output) + pad, max(width, output) + pad)


class Rendered(NamedTuple):
    """A unit's whole canvas: image with its mirrored surroundings, targets without.

    Attributes:
      image: float32 or the source's dtype, [rows, columns, C] of the canvas.
      label: uint8, the canvas less the pad on all sides.
      weight: float32, likewise.
    """

    image: np.ndarray
    label: np.ndarray
    weight: np.ndarray


def frame_statistics(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, float64 [C].

    A constant channel's deviation counts as 1, so that it normalises to 0.
    """
    mean = image.mean(axis=(0, 1), dtype=np.float64)
    std = image.std(axis=(0, 1), dtype=np.float64)
    return mean, np.where(std > 0, std, 1.0)


def targets(truth: Truth, data: ml_collections.ConfigDict) -> tuple[np.ndarray, ...]:
    """Classes with touching cells parted, and the border weights between them."""
    instances, classes = truth.instances.copy(), truth.classes.copy()
    touching = touching_pixels(instances, classes)
    instances[touching] = 0
    classes[touching] = 0
    weight = border_weights(
        instances, w0=data.border_weight, sigma_px=data.border_sigma_px
    )
    weight[classes == UNLABELLED] = 0
    return classes, weight


def render(
    image: np.ndarray,
    truth: Truth,
    canvas: Canvas,
    data: ml_collections.ConfigDict,
    *,
    seed: int | None,
) -> Rendered:
    """The whole canvas of a frame, unchanged (seed None) or augmented.

    Args:
      image: uint8 or uint16 [H, W, C].
      truth: of the same height and width.
      canvas: the extent to fill.
      data: the config's `data` part.
      seed: of the unit; None leaves the frame as it is.
    """
    height, width = image.shape[:2]
    if seed is None:
        rows = tiling.mirror_indices(*canvas.rows, height)
        columns = tiling.mirror_indices(*canvas.columns, width)
        padded = image[rows[:, None], columns[None, :]]
    else:
        rng = np.random.default_rng(seed)
        warp = augment.random_warp(
            rng,
            data.augment,
            frame=(height, width),
            rows=canvas.rows,
            columns=canvas.columns,
        )
        mean, std = frame_statistics(image)
        warped = augment.warp_image(image, warp)
        grey = augment.random_grey(warped, rng, data.augment, mean=mean, std=std)
        top = np.iinfo(image.dtype).max
        padded = np.rint(np.clip(grey, 0, top, out=grey), out=grey).astype(image.dtype)
        inner = np.s_[canvas.pad : canvas.pad + height, canvas.pad : canvas.pad + width]
        inside = augment.Warp(*(np.ascontiguousarray(axis[inner]) for axis in warp))
        truth = Truth(*(augment.warp_labels(layer, inside) for layer in truth))
    classes, weight = targets(truth, data)
    below = canvas.bottom - canvas.pad - height
    beside = canvas.right - canvas.pad - width
    outside = ((0, below), (0, beside))
    return Rendered(
        padded,
        np.pad(classes, outside, constant_values=UNLABELLED),
        np.pad(weight, outside),
    )


def tiles_of_unit(
    unit: Unit, config: ml_collections.ConfigDict, *, bits: int
) -> Iterator[Tile]:
    """Reads a unit's frame and yields its tiles in reading order.

    Args:
      unit: what to make.
      config: the whole config.
      bits: 8 or 16, bits of a pixel throughout the data set.
    """
    data, model = config.data, config.model
    output = tiling.output_size(data.tile_size, model.depth)
    image = read_frame(unit.frame, model.channels)
    truth = read_truth(unit.frame, data, model.classes)
    height, width = image.shape[:2]
    mean, std = frame_statistics(image)
    canvas = canvas_of(height, width, output=output, depth=model.depth)
    seed = identity_seed(unit.key, config.seed) if unit.augmentation else None
    rendered = render(image, truth, canvas, data, seed=seed)
    pixels = rendered.image.astype(np.dtype(f"u{bits // 8}"), copy=False)
    for row in tiling.tile_origins(height, output):
        for column in tiling.tile_origins(width, output):
            window = np.s_[row : row + output, column : column + output]
            seen = np.s_[row : row + data.tile_size, column : column + data.tile_size]
            yield Tile(
                f"{unit.key}/r{row}c{column}",
                np.ascontiguousarray(pixels[seen]),
                np.ascontiguousarray(rendered.label[window]),
                np.ascontiguousarray(rendered.weight[window]),
                mean,
                std,
            )
