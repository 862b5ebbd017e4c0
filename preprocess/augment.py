"""Augmentation of whole frames: elastic deformation, turns, flips, shifts, grey values.

Geometry is one map from output pixels to source pixels, so that a frame is resampled
once; the mirrored surroundings come out of the same lookup. (arXiv 1505.04597,
section 3.1: displacements on a 3 x 3 grid, normal with 10 px deviation, bicubic.)

What is drawn at random is a recipe, `Deformation` and `Grey`. Any window of the output
can be made from it alone, and has the pixels that the whole would have there: all
arithmetic is a pixel's own, none a matrix product, whose rounding depends on its shape.
"""

import functools
from typing import NamedTuple

import cv2
import ml_collections
import numpy as np

from unet_tfrecords.dataset import tiling

Range = tuple[int, int]  # first and stop along an axis, in px of the frame
SMALLEST_SOURCE, LARGEST_SOURCE = 8, 4096  # px: others need care, see `_looked_up`
STRIP_ROWS = 64  # of float32 within a second-level cache


class Positions(NamedTuple):
    """Where each output pixel comes from, float32 [H, W] each, within the frame."""

    rows: np.ndarray
    columns: np.ndarray

    def within(self, window: tuple[slice, slice]) -> "Positions":
        """Those of a part of the output."""
        return Positions(*(np.ascontiguousarray(axis[window]) for axis in self))


class Deformation(NamedTuple):
    """One random map of a frame onto itself.

    Attributes:
      frame: height and width, px.
      moves: float64 [2, N, N], displacements of the nodes along rows and columns, px.
      angle: radians.
      flips: [2], -1 mirrors the axis, 1 does not.
      shift: [2], px.
      zoom: how many times as large objects get.
    """

    frame: tuple[int, int]
    moves: np.ndarray
    angle: float
    flips: np.ndarray
    shift: np.ndarray
    zoom: float = 1.0

    def positions(self, rows: Range, columns: Range) -> Positions:
        """The source of every output pixel in a window of the canvas."""
        height, width = self.frame
        centre = (height - 1) / 2, (width - 1) / 2
        y = (np.arange(*rows) - centre[0] - self.shift[0]) * self.flips[0]
        x = (np.arange(*columns) - centre[1] - self.shift[1]) * self.flips[1]
        cos, sin = np.cos(self.angle) / self.zoom, np.sin(self.angle) / self.zoom
        nodes = self.moves.shape[-1]
        bases = spline_basis(nodes, *rows, height), spline_basis(nodes, *columns, width)
        return Positions(
            _field(y * cos + centre[0], x * -sin, self.moves[0], bases, height),
            _field(y * sin + centre[1], x * cos, self.moves[1], bases, width),
        )


def _field(
    down: np.ndarray,
    across: np.ndarray,
    moves: np.ndarray,
    bases: tuple[np.ndarray, np.ndarray],
    size: int,
) -> np.ndarray:
    """Positions along one source axis: turned, shifted, bent and folded, float32.

    Some rows at a time, so that the steps find each other's results in the cache.

    Args:
      down, across: what each row [H] and each column [W] adds, px.
      moves: [N, N], displacements of the nodes, px.
      bases: `spline_basis` of the rows and of the columns.
      size: of the frame along the source axis, px.
    """
    bends = along_columns(moves, bases[1])
    bend_px = np.abs(bases[0]).sum(axis=1).max() * np.abs(bends).max()
    furthest = np.abs(down).max() + np.abs(across).max() + bend_px
    # The splines through the nodes add up to 1, so what a column adds is a bend too;
    # what a row adds is a bend of 1 everywhere.
    bends = np.vstack([bends + across, np.ones(len(across))]).astype(np.float32)
    basis = np.column_stack([bases[0], down]).astype(np.float32)
    field = np.empty((len(down), len(across)), np.float32)
    for first in range(0, len(down), STRIP_ROWS):
        some = slice(first, first + STRIP_ROWS)
        interpolate(basis[some], bends, out=field[some])
        fold(field[some], size, furthest)
    return field


@functools.lru_cache(maxsize=64)
def spline_basis(nodes: int, first: int, stop: int, size: int) -> np.ndarray:
    """Natural cubic splines through unit vectors: dense = basis @ coarse.

    The nodes are spread over pixels 0..size-1; pixels outside take the value at the
    nearer end, so that the mirrored surroundings move along with the edge.

    Args:
      nodes: grid nodes along the axis, at least 2.
      first, stop: the pixels to evaluate at, in frame coordinates.
      size: the frame's edge in pixels.

    Returns:
      float32 [stop - first, nodes].
    """
    # Second derivatives at the inner nodes solve a tridiagonal system (both ends 0).
    inner = nodes - 2
    system = np.diag(np.full(inner, 4.0))
    system += np.diag(np.ones(max(0, inner - 1)), 1)[:inner, :inner]
    system += np.diag(np.ones(max(0, inner - 1)), -1)[:inner, :inner]
    differences = np.diff(np.eye(nodes), n=2, axis=0)
    curvature = np.zeros((nodes, nodes))
    curvature[1:-1] = np.linalg.solve(system, 6 * differences)

    position = np.clip(np.arange(first, stop) / max(1, size - 1), 0, 1) * (nodes - 1)
    left = np.minimum(position.astype(int), nodes - 2)
    b = (position - left)[:, None]
    a = 1 - b
    unit = np.eye(nodes)
    dense = a * unit[left] + b * unit[left + 1]
    dense += (a**3 - a) / 6 * curvature[left] + (b**3 - b) / 6 * curvature[left + 1]
    return dense.astype(np.float32)


def along_columns(coarse: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Interpolates a coarse grid along its rows.

    Args:
      coarse: [N, N].
      across: `spline_basis` of the columns, [W, N].

    Returns:
      float64 [N, W].
    """
    terms = coarse[:, :, None] * across.T[None].astype(np.float64)
    return terms.sum(axis=1)


def interpolate(down: np.ndarray, bends: np.ndarray, out: np.ndarray) -> None:
    """Bicubic interpolation, down @ bends, each pixel by itself.

    Args:
      down: `spline_basis` of the rows, [H, N].
      bends: what `along_columns` gives, [N, W].
      out: float32 [H, W].
    """
    # Not a matrix product: its rounding depends on its shape, einsum's does not.
    np.einsum("hn,nw->hw", down, bends, out=out, optimize=False)


def random_deformation(
    rng: np.random.Generator,
    augment: ml_collections.ConfigDict,
    frame: tuple[int, int],
) -> Deformation:
    """Draws one deformation of a frame.

    Args:
      rng: the unit's own generator.
      augment: the config's `data.augment`.
      frame: its height and width in px.
    """
    nodes = augment.elastic_grid
    return Deformation(
        frame,
        rng.normal(0, augment.elastic_sigma_px, (2, nodes, nodes)),
        np.deg2rad(rng.uniform(-augment.rotation_deg, augment.rotation_deg)),
        rng.integers(0, 2, 2) * 2 - 1 if augment.flip else np.ones(2),
        rng.uniform(-augment.shift_px, augment.shift_px, 2),
        # Drawn only where it is wanted: data sets without keep their bytes.
        np.exp(rng.uniform(-augment.zoom, augment.zoom)) if augment.zoom else 1.0,
    )


def fold(position: np.ndarray, size: int, furthest: float = np.inf) -> np.ndarray:
    """Brings positions on an axis mirrored without end back to 0..size-1, in place.

    OpenCV's bicubic lookup is wrong beyond the first mirror image (5.0.0); so none of
    its lookups is left to go further than a pixel or two over the edge.

    Args:
      position: float, px.
      size: of the frame along the axis, px.
      furthest: no position lies further from 0.

    >>> fold(np.array([-1.5, 3.0, 4.25, 7.0]), 4).tolist()
    [1.5, 3.0, 1.75, 1.0]
    """
    period = position.dtype.type(2 * (size - 1))
    if not period:
        return np.multiply(position, 0, out=position)
    np.abs(position, out=position)
    if furthest > period:
        np.fmod(position, period, out=position)
    return np.minimum(position, period - position, out=position)


class Grey(NamedTuple):
    """One random change of grey values, each channel of its own.

    Contrast and brightness act around the frame's mean in units of its deviation:
    x' = mean + std * (contrast * z + brightness) with z = (x - mean) / std, and gamma
    bends z before: sign(z) * |z| ** gamma.

    Attributes:
      mean, std: float64 [C], the unchanged frame's.
      contrast, brightness, gamma: float64 [C].
    """

    mean: np.ndarray
    std: np.ndarray
    contrast: np.ndarray
    brightness: np.ndarray
    gamma: np.ndarray

    def changed(self, values: np.ndarray) -> np.ndarray:
        """New grey values, not yet clipped, float32 [..., C] of numbers [..., C]."""
        z = (values - self.mean) / self.std
        bent = np.copysign(np.abs(z) ** self.gamma, z)
        shown = self.mean + self.std * (self.contrast * bent + self.brightness)
        return shown.astype(np.float32)

    def table(self, largest: int) -> np.ndarray:
        """The new value of every whole number up to `largest`, float32 [N, C]."""
        return self.changed(np.arange(largest + 1)[:, None])


def random_grey(
    rng: np.random.Generator,
    augment: ml_collections.ConfigDict,
    *,
    mean: np.ndarray,
    std: np.ndarray,
) -> Grey:
    """Draws one change of grey values.

    Args:
      augment: the config's `data.augment`.
      mean, std: [C], the unchanged frame's.
    """
    channels = len(mean)
    return Grey(
        mean,
        std,
        np.exp(rng.uniform(-augment.contrast, augment.contrast, channels)),
        rng.uniform(-augment.brightness, augment.brightness, channels),
        np.exp(rng.uniform(-augment.gamma, augment.gamma, channels)),
    )


def warp_image(
    image: np.ndarray, positions: Positions, table: np.ndarray
) -> np.ndarray:
    """Changes grey values, then resamples, bicubic.

    Args:
      image: uint8 or uint16 [H, W, C].
      positions: of the output's pixels.
      table: `Grey.table` up to the image's largest pixel.

    Returns:
      float32 [rows, columns, C], not clipped.
    """
    source, positions = _looked_up(image, positions)
    channels = [
        cv2.remap(
            _in_table(source[..., index], table[:, index]),
            positions.columns,
            positions.rows,
            cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        for index in range(image.shape[2])
    ]
    return channels[0][..., None] if len(channels) == 1 else np.dstack(channels)


def _in_table(pixels: np.ndarray, table: np.ndarray) -> np.ndarray:
    """table[pixels]; for 8 bit by OpenCV, ten times as fast."""
    if pixels.dtype != np.uint8:
        return table.take(pixels)
    return cv2.LUT(pixels, np.resize(table, 256))


def warp_labels(labels: np.ndarray, positions: Positions) -> np.ndarray:
    """Looks labels up at the nearest pixel: no value arises that was not there.

    Args:
      labels: uint8, uint16 or int32 [H, W].
    """
    source, positions = _looked_up(labels, positions)
    if labels.dtype == np.int32:  # which OpenCV can't look up
        # float32 holds whole numbers exactly up to 2**24, above any count of cells.
        source = source.astype(np.float32)
    found = cv2.remap(source, positions.columns, positions.rows, cv2.INTER_NEAREST)
    return found.astype(labels.dtype, copy=False)


def _looked_up(
    source: np.ndarray, positions: Positions
) -> tuple[np.ndarray, Positions]:
    """What OpenCV can take: part of a large source, more than all of a tiny one.

    It takes no source beyond 32,766 px, and a part can be converted where the whole
    would not fit; in one of few pixels its mirroring never ends (5.0.0). Whole pixels
    are taken off or added, so no fraction changes, and an even number, because halves
    are rounded to the even pixel.
    """
    if (
        SMALLEST_SOURCE
        <= min(source.shape[:2])
        <= max(source.shape[:2])
        <= (LARGEST_SOURCE)
    ):
        return source, positions
    moved = []
    for axis, position in enumerate(positions):
        size = source.shape[axis]
        if size < SMALLEST_SOURCE:
            first, stop = -4, size + 4
        else:  # bicubic looks two pixels around
            first = max(0, int(position.min()) - 2) // 2 * 2
            stop = min(size, int(position.max()) + 4)
        source = source.take(tiling.mirror_indices(first, stop, size), axis=axis)
        moved.append(position - first)
    return np.ascontiguousarray(source), Positions(*moved)
