"""One unit becomes its tiles: deform, weigh, cut. Pixels are only made here.

A frame of any size is made window by window, some tiles at a time: memory is that of
the frame as stored and of one window. A pixel is the same in whichever window it lies.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import ml_collections
import numpy as np

from preprocess import augment
from preprocess.plan import Unit
from preprocess.weights import border_weights, margin_px
from unet_tfrecords.dataset import tiling
from unet_tfrecords.dataset.images.formats import read_images
from unet_tfrecords.dataset.images.frames import Frame, Truth
from unet_tfrecords.dataset.images.layouts import read_truth
from unet_tfrecords.dataset.pixel_statistics import Moments, moments
from unet_tfrecords.dataset.records import UNLABELLED, Tile
from unet_tfrecords.dataset.regions import touching_pixels
from unet_tfrecords.dataset.seeds import identity_seed
from unet_tfrecords.dataset.targets import TARGETS

WINDOW_PX = 1200  # of output along an axis, unless a single tile has more


class LoadedFrame(NamedTuple):
    """A frame in memory.

    Attributes:
      image: uint8 or uint16 [H, W, C].
      truth: of the same height and width.
      moments: of its pixels.
    """

    image: np.ndarray
    truth: Truth
    moments: Moments


def load(frame: Frame, config: ml_collections.ConfigDict) -> LoadedFrame:
    """Reads a frame and its truth."""
    data, model = config.data, config.model
    truth = read_truth(frame, data, model.classes)
    image = read_images(frame.images, model.channels, selected=data.channels)
    return LoadedFrame(image, truth, moments(image))


class Change(NamedTuple):
    """What augmentation does to a frame."""

    deformation: augment.Deformation
    grey: np.ndarray  # `Grey.table`


class Window(NamedTuple):
    """A rectangle of output, in frame coordinates (ends exclusive).

    >>> Window((0, 512), (0, 512)).widened(92).rows  # 696 px
    (-92, 604)
    """

    rows: augment.Range
    columns: augment.Range

    def widened(self, px: int) -> "Window":
        """The window and what surrounds it."""
        return Window(*((first - px, stop + px) for first, stop in self))

    def clipped(self, height: int, width: int) -> "Window":
        """What of the window lies in the frame."""
        sizes = (height, width)
        return Window(
            *(
                (max(0, a), min(size, b))
                for (a, b), size in zip(self, sizes, strict=True)
            )
        )

    def joined(self, other: "Window") -> "Window":
        """The smallest window that holds both."""
        pairs = zip(self, other, strict=True)
        return Window(*((min(a, c), max(b, d)) for (a, b), (c, d) in pairs))

    def inside(self, outer: "Window") -> tuple[slice, slice]:
        """Where this window lies in an array that holds an outer one."""
        pairs = zip(self, outer, strict=True)
        down, across = (slice(a - first, b - first) for (a, b), (first, _) in pairs)
        return down, across


def targets(truth: Truth, data: ml_collections.ConfigDict) -> tuple[np.ndarray, ...]:
    """Classes with touching cells parted, border weights between them, the planes."""
    instances, classes = truth.instances.copy(), truth.classes.copy()
    touching = touching_pixels(instances, classes)
    instances[touching] = 0
    classes[touching] = 0
    weight = border_weights(
        instances, w0=data.border_weight, sigma_px=data.border_sigma_px
    )
    weight[classes == UNLABELLED] = 0
    return classes, weight, TARGETS[data.targets].render(instances, classes)


def render(
    image: np.ndarray,
    truth: Truth,
    window: Window,
    data: ml_collections.ConfigDict,
    *,
    pad: int,
    margin: int,
    change: Change | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A window of a frame, unchanged or augmented.

    Args:
      image: uint8 or uint16 [H, W, C].
      truth: of the same height and width.
      window: of the output.
      data: the config's `data` part.
      pad: pixels that an image reaches beyond its labels on every side.
      margin: how far around the window cells must be known.
      change: None leaves the frame as it is.

    Returns:
      the image with its surroundings, in the source's dtype,
        [rows + 2 pad, columns + 2 pad, C];
      label, uint8 [rows, columns], beyond the frame unlabelled;
      weight, float32 [rows, columns];
      planes, uint8 [rows, columns, P].
    """
    height, width = image.shape[:2]
    seen = window.widened(pad)
    # Weights and planes at the window's rim depend on cells beyond it.
    known = window.widened(margin).clipped(height, width)
    if change is None:
        rows = tiling.mirror_indices(*seen.rows, height)
        columns = tiling.mirror_indices(*seen.columns, width)
        pixels = image[rows].take(columns, axis=1)
        part = np.s_[slice(*known.rows), slice(*known.columns)]
        truth = Truth(*(layer[part] for layer in truth))
    else:
        evaluated = seen.joined(known)
        positions = change.deformation.positions(*evaluated)
        pixels = _deformed(image, positions.within(seen.inside(evaluated)), change)
        looked_up = positions.within(known.inside(evaluated))
        truth = Truth(*(augment.warp_labels(layer, looked_up) for layer in truth))
    classes, weight, planes = targets(truth, data)
    in_frame = window.clipped(height, width)
    part = in_frame.inside(known)
    outside = [
        (0, stop - inner)
        for (_, stop), (_, inner) in zip(window, in_frame, strict=True)
    ]
    classes, weight, planes = classes[part], weight[part], planes[part]
    if in_frame != window:
        classes = np.pad(classes, outside, constant_values=UNLABELLED)
        weight = np.pad(weight, outside)
        planes = np.pad(planes, [*outside, (0, 0)])
    return pixels, classes, weight, planes


def _deformed(
    image: np.ndarray, positions: augment.Positions, change: Change
) -> np.ndarray:
    """Resampled pixels in the source's dtype."""
    warped = augment.warp_image(image, positions, change.grey)
    top = np.iinfo(image.dtype).max
    np.rint(np.clip(warped, 0, top, out=warped), out=warped)
    return warped.astype(image.dtype)


def windows(origins: list[int], output: int) -> Iterator[list[int]]:
    """Groups of neighbouring tiles' origins along an axis.

    >>> list(windows([0, 306, 612, 918], 388))
    [[0, 306, 612], [918]]
    """
    group: list[int] = []
    for origin in origins:
        if group and origin + output - group[0] > max(WINDOW_PX, output):
            yield group
            group = []
        group.append(origin)
    yield group


def tiles_of_unit(
    unit: Unit,
    loaded: LoadedFrame,
    config: ml_collections.ConfigDict,
    *,
    bits: int,
    normalise_by: Moments | None = None,
) -> Iterator[Tile]:
    """The tiles of a unit, window by window, in reading order within each.

    Args:
      unit: what to make.
      loaded: its frame.
      config: the whole config.
      bits: 8 or 16, bits of a pixel throughout the data set.
      normalise_by: the data set's moments; None takes the frame's.
    """
    data, depth = config.data, config.model.depth
    size, pad = data.tile_size, tiling.pad(depth)
    output = tiling.output_size(size, depth)
    image, truth, of_frame = loaded
    normal = normalise_by or of_frame
    mean, std = normal.mean, normal.std
    height, width = image.shape[:2]
    zoom = math.exp(data.augment.zoom)
    reach = TARGETS[data.targets].reach_px(truth.instances, zoom)
    margin = max(margin_px(data.border_sigma_px), reach)
    change = None
    if unit.augmentation:
        rng = np.random.default_rng(identity_seed(unit.key, config.seed))
        deformation = augment.random_deformation(rng, data.augment, (height, width))
        grey = augment.random_grey(
            rng, data.augment, mean=of_frame.mean, std=of_frame.std
        )
        change = Change(deformation, grey.table(int(image.max())))
    for rows in windows(tiling.tile_origins(height, output), output):
        for columns in windows(tiling.tile_origins(width, output), output):
            window = Window(
                (rows[0], rows[-1] + output), (columns[0], columns[-1] + output)
            )
            pixels, label, weight, planes = render(
                image, truth, window, data, pad=pad, margin=margin, change=change
            )
            pixels = pixels.astype(np.dtype(f"u{bits // 8}"), copy=False)
            for row in rows:
                for column in columns:
                    down, across = row - rows[0], column - columns[0]
                    target = np.s_[down : down + output, across : across + output]
                    seen = np.s_[down : down + size, across : across + size]
                    yield Tile(
                        f"{unit.key}/r{row}c{column}",
                        pixels[seen],
                        label[target],
                        weight[target],
                        mean,
                        std,
                        planes[target],
                    )
