"""Augmentation of whole frames: elastic deformation, turns, flips, shifts, grey values.

Geometry is one map from output pixels to source pixels, so that a frame is resampled
once; the mirrored surroundings come out of the same lookup. (arXiv 1505.04597,
section 3.1: displacements on a 3 x 3 grid, normal with 10 px deviation, bicubic.)
"""

import functools
from typing import NamedTuple

import cv2
import ml_collections
import numpy as np


class Warp(NamedTuple):
    """Where each output pixel comes from, float32 [H, W] each, in source pixels."""

    rows: np.ndarray
    columns: np.ndarray


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


def elastic_displacement(
    coarse: np.ndarray, rows: tuple[int, int, int], columns: tuple[int, int, int]
) -> np.ndarray:
    """Bicubic interpolation of a coarse grid of displacements.

    Args:
      coarse: [N, N] displacements along one axis, in px.
      rows, columns: (first, stop, frame size) along each axis.

    Returns:
      float32 [stop - first along rows, along columns], in px.
    """
    down = spline_basis(len(coarse), *rows)
    across = spline_basis(len(coarse), *columns)
    return down @ coarse.astype(np.float32) @ across.T


def random_warp(
    rng: np.random.Generator,
    augment: ml_collections.ConfigDict,
    *,
    frame: tuple[int, int],
    rows: tuple[int, int],
    columns: tuple[int, int],
) -> Warp:
    """Draws one deformation of a frame.

    Args:
      rng: the unit's own generator.
      augment: the config's `data.augment`.
      frame: its height and width in px.
      rows, columns: first and stop of the output, in frame coordinates; beyond the
        frame lie its mirror images.
    """
    height, width = frame
    nodes = augment.elastic_grid
    moves = rng.normal(0, augment.elastic_sigma_px, (2, nodes, nodes))
    angle = np.deg2rad(rng.uniform(-augment.rotation_deg, augment.rotation_deg))
    flips = rng.integers(0, 2, 2) * 2 - 1 if augment.flip else np.ones(2)
    shift = rng.uniform(-augment.shift_px, augment.shift_px, 2)
    centre = np.array([height - 1, width - 1]) / 2

    y = (np.arange(*rows) - centre[0] - shift[0])[:, None] * flips[0]
    x = (np.arange(*columns) - centre[1] - shift[1])[None, :] * flips[1]
    grid_rows, grid_columns = (*rows, height), (*columns, width)
    source_rows = (y * np.cos(angle) - x * np.sin(angle) + centre[0]).astype(np.float32)
    source_columns = (y * np.sin(angle) + x * np.cos(angle) + centre[1]).astype(
        np.float32
    )
    source_rows += elastic_displacement(moves[0], grid_rows, grid_columns)
    source_columns += elastic_displacement(moves[1], grid_rows, grid_columns)
    return Warp(source_rows, source_columns)


def warp_image(image: np.ndarray, warp: Warp) -> np.ndarray:
    """Resamples pixels, bicubic; beyond the frame lie its mirror images.

    Args:
      image: uint8, uint16 or float32 [H, W, C].

    Returns:
      float32 [rows, columns, C].
    """
    source = image.astype(np.float32)
    warped = _remap(source, warp, cv2.INTER_CUBIC)
    return warped[..., None] if warped.ndim == 2 else warped


def warp_labels(labels: np.ndarray, warp: Warp) -> np.ndarray:
    """Looks labels up at the nearest pixel: no value arises that was not there.

    Args:
      labels: uint8 or int32 [H, W].
    """
    if labels.dtype == np.uint8:
        return _remap(labels, warp, cv2.INTER_NEAREST)
    # float32 holds whole numbers exactly up to 2**24, far above any count of cells.
    return _remap(labels.astype(np.float32), warp, cv2.INTER_NEAREST).astype(np.int32)


def fold(position: np.ndarray, size: int) -> np.ndarray:
    """Positions on an axis mirrored without end, brought back to 0..size-1.

    OpenCV's bicubic lookup is wrong beyond the first mirror image (5.0.0); so none of
    its lookups is left to go further than a pixel or two over the edge.

    >>> fold(np.array([-1.5, 3.0, 4.25, 7.0]), 4).tolist()
    [1.5, 3.0, 1.75, 1.0]
    """
    last = size - 1
    position = np.abs(position)
    if last and position.max() > 2 * last:
        position = np.fmod(position, np.float32(2 * last))
    return last - np.abs(last - position) if last else position * 0


def _remap(source: np.ndarray, warp: Warp, interpolation: int) -> np.ndarray:
    height, width = source.shape[:2]
    return cv2.remap(
        source,
        fold(warp.columns, width),
        fold(warp.rows, height),
        interpolation,
        borderMode=cv2.BORDER_REFLECT_101,
    )


def random_grey(
    image: np.ndarray,
    rng: np.random.Generator,
    augment: ml_collections.ConfigDict,
    *,
    mean: np.ndarray,
    std: np.ndarray,
) -> np.ndarray:
    """Changes contrast, brightness and gamma, each channel of its own.

    Contrast and brightness act around the frame's mean in units of its deviation:
    x' = mean + std * (contrast * z + brightness) with z = (x - mean) / std, and gamma
    bends z before: sign(z) * |z| ** gamma.

    Args:
      image: float32 [H, W, C].
      mean, std: [C], the unchanged frame's.

    Returns:
      float32 [H, W, C], not yet clipped to the source's range.
    """
    channels = image.shape[-1]
    contrast = np.exp(rng.uniform(-augment.contrast, augment.contrast, channels))
    brightness = rng.uniform(-augment.brightness, augment.brightness, channels)
    gamma = np.exp(rng.uniform(-augment.gamma, augment.gamma, channels))
    z = (image - mean.astype(np.float32)) / std.astype(np.float32)
    if augment.gamma:
        z = np.copysign(np.abs(z) ** gamma.astype(np.float32), z)
    changed = contrast * z + brightness
    return (mean + std * changed).astype(np.float32)
