"""Drawn cells that touch: a microscopy-like video with exact truth."""

import cv2
import numpy as np

from unet_tfrecords.dataset.regions import touching_pixels
from unet_tfrecords.dataset.seeds import identity_seed


def generator(name: str, seed: int) -> np.random.Generator:
    return np.random.default_rng(identity_seed(name, seed))


def texture(rng: np.random.Generator, size: int, grain_px: float) -> np.ndarray:
    """Smooth noise with mean 0 and deviation 1, float32 [size, size]."""
    noise = rng.standard_normal((size, size)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), grain_px)
    return (smooth - smooth.mean()) / smooth.std()


def to_uint8(picture: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def draw_cells(size: int, num_frames: int, seed: int):
    """A video of cells that wander, touch and never overlap.

    Args:
      size: frame's edge, px.
      num_frames: how many.
      seed: the same seed, the same video.

    Yields:
      image uint8 [size, size], instances uint16 [size, size].
    """
    rng = generator("cells", seed)
    count = max(2, round(size**2 / 4500))
    radius = rng.uniform(14, 24, count)
    angles = rng.uniform(0, 2 * np.pi, (count, 3))
    swing = rng.uniform(0.05, 0.16, (count, 3))
    place = rng.uniform(0, size, (count, 2))
    speed = rng.normal(0, 1.5, (count, 2))
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    for frame in range(num_frames):
        instances = np.zeros((size, size), np.uint16)
        for cell in range(count):
            y, x = rows - place[cell, 0], columns - place[cell, 1]
            turn = np.arctan2(y, x)
            outline = radius[cell] * (
                1
                + sum(
                    swing[cell, k] * np.cos((k + 2) * turn + angles[cell, k])
                    for k in range(3)
                )
            )
            inside = (np.hypot(y, x) < outline) & (instances == 0)
            instances[inside] = cell + 1
        yield _shade_cells(instances, generator(f"cells/{frame}", seed)), instances
        speed = 0.9 * speed + rng.normal(0, 0.6, (count, 2))
        place = (place + speed) % size
        angles += rng.normal(0, 0.08, angles.shape)


def _shade_cells(instances: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Phase-contrast-like: dim bodies, bright halo, uneven light, camera noise."""
    size = len(instances)
    inside = (instances > 0).astype(np.float32)
    inside[touching_pixels(instances, instances > 0)] = 0
    halo = cv2.GaussianBlur(1 - inside, (0, 0), 2.0) * cv2.GaussianBlur(
        inside, (0, 0), 3.0
    )
    light = 12 * texture(rng, size, size / 6)
    picture = 110 + light + 120 * halo - 14 * inside
    picture += 10 * texture(rng, size, 2.0) * inside + rng.normal(0, 7, (size, size))
    return to_uint8(picture)
