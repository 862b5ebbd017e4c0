"""Targets: against brute force, and what cells are made of them again."""

import os
import pathlib

import numpy as np
import pytest
import tifffile
from scipy import ndimage
from skimage import measure, morphology

from trainer.inference.instances import InstanceRules, instances_of
from unet_tfrecords.dataset import regions
from unet_tfrecords.dataset.targets import TARGETS, border, distance, planes_are

DATA = os.environ.get("UNET_TEST_DATA", "")


def parted(instances):
    """Cells of one class that don't touch, and the class."""
    instances = instances.astype(np.int32)
    classes = (instances > 0).astype(np.uint8)
    touching = regions.touching_pixels(instances, classes)
    return np.where(touching, 0, instances), np.where(touching, 0, classes)


def brute_force(instances):
    """Both planes as the paper has them, cell by cell over the whole frame (SciPy)."""
    pieces = measure.label(instances > 0, connectivity=1)
    cell, neighbour = np.zeros(pieces.shape), np.zeros(pieces.shape)
    for name in range(1, pieces.max() + 1):
        own = pieces == name
        depth = ndimage.distance_transform_edt(own)
        cell[own] = depth[own] / depth.max()
        others = (pieces > 0) & ~own
        away = ndimage.distance_transform_edt(~others)
        if others.any() and away[own].min() <= distance.RADIUS_PX:
            span = min(depth.max() + 3, away[own].max())
            neighbour[own] = np.clip(1 - away[own] / span, 0, 1)
    each = [
        ndimage.distance_transform_edt(pieces != n) for n in range(1, pieces.max() + 1)
    ]
    if len(each) > 1:
        first, second = np.sort(each, axis=0)[:2]
        neighbour[(pieces == 0) & (first + second < distance.GAP_PX + 2)] = 1
    curve = 1 / np.sqrt(0.65 + 0.5 * np.exp(-11 * (neighbour - 0.75))) - 0.19
    closed = morphology.closing(np.clip(curve, 0, 1), np.ones((3, 3)))
    return np.stack([cell, closed], axis=-1)


@pytest.mark.parametrize("seed", range(4))
def test_distances_equal_brute_force(random_cells, seed):
    instances, classes = parted(random_cells(seed, (120, 140), count=12 + 5 * seed))
    planes = distance.render(instances, classes)
    assert planes.dtype == np.uint8
    expected = brute_force(instances)
    inner = np.s_[1:-1, 1:-1]  # closings differ in what they see beyond the frame
    np.testing.assert_allclose(planes[inner] / 255, expected[inner], atol=0.51 / 255)


@pytest.mark.parametrize("seed", range(4))
def test_border_equals_brute_force(random_cells, seed):
    instances, classes = parted(random_cells(seed, (120, 140), count=12 + 5 * seed))
    plane = border.render(instances, classes)
    pieces = measure.label(instances > 0, connectivity=1)
    each = [
        ndimage.distance_transform_edt(pieces != n) for n in range(1, pieces.max() + 1)
    ]
    first, second = np.sort(each, axis=0)[:2]
    expected = first + second <= border.NEAR_PX
    assert plane.dtype == np.uint8 and 0 < expected.sum() < expected.size / 4
    np.testing.assert_array_equal(plane[..., 0], 255 * expected)


def test_a_border_is_in_both_cells_and_between_them():
    instances = np.zeros((20, 40), np.int32)
    instances[4:16, 4:19] = 1
    instances[4:16, 20:36] = 2  # a pixel apart
    plane = border.render(instances, (instances > 0).astype(np.uint8))[..., 0]
    assert plane[10].nonzero()[0].tolist() == [17, 18, 19, 20, 21]
    instances[instances == 2] = 0
    assert not border.render(instances, (instances > 0).astype(np.uint8)).any()


def test_cells_alone_and_frames_without_any():
    empty = np.zeros((40, 50), np.int32)
    assert not distance.render(empty, empty.astype(np.uint8)).any()
    one = empty.copy()
    one[10:30, 10:40] = 7
    planes = distance.render(one, (one > 0).astype(np.uint8))
    assert planes[20, 25, 0] == 255 and not planes[..., 1].any()
    full = np.full((40, 50), 3, np.int32)
    planes = distance.render(full, np.ones((40, 50), np.uint8))
    assert (planes[..., 0] == 255).all() and not planes[..., 1].any()


@pytest.mark.parametrize("target", [border, distance])
def test_unlabelled_pixels_are_no_cells(target):
    instances = np.zeros((40, 50), np.int32)
    instances[10:20, 10:20] = 1
    classes = (instances > 0).astype(np.uint8)
    instances[10:20, 22:32] = 2
    plain = target.render(instances, classes)
    classes[30:] = 255
    np.testing.assert_array_equal(target.render(instances, classes), plain)


@pytest.mark.parametrize("target", [border, distance])
@pytest.mark.parametrize("turn", [np.flipud, np.fliplr, np.rot90, np.transpose])
def test_planes_turn_with_the_image(random_cells, turn, target):
    """So light augmentation and averaging over symmetries may turn them."""
    instances, _ = parted(random_cells(5, count=20))

    def made(cells):
        return target.render(cells, (cells > 0).astype(np.uint8))

    expected = np.stack(
        [turn(plane) for plane in np.moveaxis(made(instances), 2, 0)], 2
    )
    np.testing.assert_array_equal(made(np.ascontiguousarray(turn(instances))), expected)


def made_again(instances, target):
    """Cells decoded from the planes of cells, with perfect classes."""
    instances, classes = parted(instances)
    planes = target.render(instances, classes).astype(np.float32) / 255
    foreground = (classes == 1).astype(np.float32)
    probabilities = np.stack([1 - foreground, foreground], axis=-1)
    rules = InstanceRules(min_size_px=0, fill_holes=False, border_px=0)
    return instances, instances_of(probabilities, rules, planes)


@pytest.mark.skipif(not DATA, reason="needs UNET_TEST_DATA")
@pytest.mark.parametrize("target", [border, distance])
@pytest.mark.parametrize("name", ["DIC-C2DH-HeLa", "PhC-C2DH-U373", "Fluo-N2DL-HeLa"])
def test_every_cell_comes_back_from_its_planes(name, target):
    paths = sorted(pathlib.Path(DATA, name, "01_ST/SEG").glob("*.tif"))[:4]
    for path in paths:
        truth, found = made_again(tifffile.imread(path), target)
        assert (found[truth > 0] > 0).mean() > 0.99
        counts = np.zeros((truth.max() + 1, found.max() + 1), np.int64)
        np.add.at(counts, (truth.ravel(), found.ravel()), 1)
        sizes, others = counts.sum(1)[1:], counts.sum(0)[1:]
        both = counts[1:, 1:]
        overlaps = both / (sizes[:, None] + others - both).clip(1)
        there = sizes > 20
        assert (overlaps.max(1)[there] > 0.9).mean() > 0.98, path


def test_what_targets_have():
    for target in TARGETS.values():
        empty = np.zeros((8, 9), np.uint8)
        planes = target.render(empty.astype(np.int32), empty)
        assert planes.shape == (8, 9, target.PLANES) and planes.dtype == np.uint8
        assert target.reach_px(empty.astype(np.int32), 1.4) >= 0 and target.VERSION
        # What a network's outputs are is known by the number of planes.
        assert planes_are(target.PLANES) == target.PLANES_ARE
