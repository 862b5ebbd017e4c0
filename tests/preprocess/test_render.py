"""Tiles made window by window are those made at once; sums against NumPy."""

import numpy as np
import pytest

from configs import base
from preprocess import render
from preprocess.plan import Unit
from unet_tfrecords.dataset import pixel_statistics, tiling
from unet_tfrecords.dataset.images.frames import Frame, Truth
from unet_tfrecords.dataset.images.pages import Page

UNIT = Unit(Frame("d", "s", "f", "folder", Page("f.tif"), split="train"), 1, 0, 1)


def made(instances, *, augmentation, tile_size, depth, targets="classes", zoom=0.0):
    """All tiles of a frame, by key."""
    rng = np.random.default_rng(0)
    size = instances.shape
    config = base.get_config()
    config.data.tile_size, config.model.depth = tile_size, depth
    config.data.targets, config.data.augment.zoom = targets, zoom
    image = rng.integers(0, 4000, (*size, 1)).astype(np.uint16)
    classes = (instances > 0).astype(np.uint8)
    classes[rng.random(size) < 0.01] = 255
    unit = UNIT._replace(augmentation=augmentation)
    loaded = render.LoadedFrame(
        image, Truth(instances, classes), pixel_statistics.moments(image)
    )
    tiles = render.tiles_of_unit(unit, loaded, config, bits=16)
    return {tile.key: tile for tile in tiles}


@pytest.mark.slow
@pytest.mark.parametrize("size", [(150, 130), (40, 211), (10, 17), (1, 90)])
@pytest.mark.parametrize("augmentation", [0, 1])
@pytest.mark.parametrize("tile_size, depth", [(60, 2), (20, 1), (92, 3)])
@pytest.mark.parametrize(
    "targets, zoom", [("classes", 0.0), ("border", 0.7), ("distance", 0.7)]
)
def test_tiles_do_not_depend_on_windows(
    random_cells, monkeypatch, size, augmentation, tile_size, depth, targets, zoom
):
    given = dict(augmentation=augmentation, tile_size=tile_size, depth=depth)
    given |= dict(targets=targets, zoom=zoom)
    instances = random_cells(0, size, count=30)
    whole = made(instances, **given)
    output = tiling.output_size(tile_size, depth)
    grid = [len(tiling.tile_origins(edge, output)) for edge in size]
    assert len(whole) == grid[0] * grid[1]
    for window_px in (1, 50, 90):
        monkeypatch.setattr(render, "WINDOW_PX", window_px)
        parts = made(instances, **given)
        assert parts.keys() == whole.keys()
        for key, tile in parts.items():
            for name in ("image", "label", "weight", "planes"):
                there, here = getattr(whole[key], name), getattr(tile, name)
                np.testing.assert_array_equal(there, here, err_msg=f"{name} of {key}")


@pytest.mark.parametrize("targets", ["border", "distance"])
def test_two_arms_of_a_cell_are_one_cell_in_every_window(monkeypatch, targets):
    """They are joined far below the window that they are seen in."""
    instances = np.zeros((400, 60), np.int32)
    instances[20:380, 10:50] = 1
    instances[20:340, 29:31] = 0  # a narrow slit from above: a U
    given = dict(augmentation=0, tile_size=60, depth=2, targets=targets)
    whole = made(instances, **given)
    monkeypatch.setattr(render, "WINDOW_PX", 40)
    parts = made(instances, **given)
    for key, tile in parts.items():
        np.testing.assert_array_equal(tile.planes, whole[key].planes)
    if targets == "border":
        assert not any(tile.planes.any() for tile in parts.values())


def test_moments_are_numpys():
    image = np.random.default_rng(1).integers(0, 65536, (2100, 1030, 2))
    found = pixel_statistics.moments(image.astype(np.uint16))
    np.testing.assert_allclose(found.mean, image.mean((0, 1)), rtol=1e-13)
    np.testing.assert_allclose(found.std, image.std((0, 1)), rtol=1e-12)
    halves = [
        pixel_statistics.moments(half.astype(np.uint16)) for half in np.split(image, 2)
    ]
    assert pixel_statistics.pooled(halves) == found
    flat = pixel_statistics.moments(np.full((5, 5, 1), 7, np.uint8))
    assert flat.mean == 7 and flat.std == 1


def test_values_are_counted():
    labels = np.random.default_rng(2).integers(0, 300, (1500, 1111)).astype(np.uint16)
    expected = np.bincount(labels.ravel())
    np.testing.assert_array_equal(pixel_statistics.count_values(labels), expected)
    assert len(pixel_statistics.count_values(labels[:0], 256)) == 256
