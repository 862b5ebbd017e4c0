"""Border weights against brute force; parted cells against scikit-image."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import label, regionprops

from preprocess.weights import border_weights
from unet_tfrecords.dataset.records import weight_step
from unet_tfrecords.dataset.regions import bounding_boxes, touching_pixels


def brute_force(instances, w0, sigma):
    """Equation 2 with one exact distance transform a cell over the whole frame."""
    identities = np.unique(instances[instances > 0])
    distances = [ndimage.distance_transform_edt(instances != i) for i in identities]
    while len(distances) < 2:
        distances.append(np.full(instances.shape, np.inf))
    d1, d2 = np.sort(np.stack(distances), axis=0)[:2]
    weights = w0 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2))
    return np.where(instances > 0, 0, weights)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sigma", [2.0, 5.0])
def test_border_weights_equal_brute_force(random_cells, seed, sigma):
    instances = random_cells(seed)
    instances[touching_pixels(instances, instances > 0)] = 0
    weights = border_weights(instances, w0=10, sigma_px=sigma)
    expected = brute_force(instances, 10, sigma)
    assert expected.max() > 5  # there is something to compare
    term = weights > 0
    np.testing.assert_allclose(weights[term], expected[term], rtol=1e-5)
    # The rest is what a record stores as 0, half a step.
    assert expected[~term].max() < weight_step(10) / 2


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_cells_have_no_border_between(random_cells, count):
    weights = border_weights(random_cells(1, count=count), w0=10, sigma_px=5)
    assert weights.max() == 0


def test_one_pixel_gap_weighs_most():
    instances = np.zeros((20, 21), np.int32)
    instances[:, :10], instances[:, 11:] = 1, 2
    weights = border_weights(instances, w0=10, sigma_px=5)
    np.testing.assert_allclose(weights[:, 10], 10 * np.exp(-4 / 50), rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_parted_cells_are_apart_by_one_pixel(random_cells, seed):
    instances = random_cells(seed, count=20)
    touching = touching_pixels(instances, instances > 0)
    assert touching.any()
    parted = np.where(touching, 0, instances)
    for piece in regionprops(label(parted > 0, connectivity=2)):
        assert len(np.unique(parted[tuple(piece.coords.T)])) == 1
    straight = np.repeat([[1, 1, 1, 2, 2, 2]], 5, axis=0)
    for line in (straight, straight.T):  # not two, by way of the diagonals
        assert touching_pixels(line, line > 0).sum() == 5
    # One pixel wide: each given-up pixel lies beside another instance.
    for row, column in np.argwhere(touching):
        near = instances[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        assert ((near > 0) & (near != instances[row, column])).any()


def test_separated_cells_lose_nothing():
    instances = np.zeros((9, 9), np.int32)
    instances[1:4, 1:4], instances[5:8, 5:8] = 1, 2
    assert not touching_pixels(instances, instances > 0).any()


def test_instances_of_different_classes_keep_all_their_pixels():
    """A cell with a rim of another class, one pixel wide, that touches another rim."""
    classes = np.zeros((12, 20), np.int32)
    instances = np.zeros_like(classes)
    for number, left in ((1, 2), (3, 9)):
        classes[2:9, left : left + 7], classes[3:8, left + 1 : left + 6] = 2, 1
        instances[2:9, left : left + 7] = number
        instances[3:8, left + 1 : left + 6] = number + 1
    touching = touching_pixels(instances, classes)
    assert touching[:, 8].sum() == 7 and touching.sum() == 7  # rim from rim alone


def test_bounding_boxes_are_scikit_images(random_cells):
    instances = random_cells(7)
    expected = {p.label: p.bbox for p in regionprops(instances)}
    names, boxes = bounding_boxes(instances)
    found = dict(zip(names.tolist(), map(tuple, boxes.tolist()), strict=True))
    assert found == expected


@pytest.mark.slow
def test_tens_of_thousands_of_instances_take_seconds():
    """Each looks at its neighbours, not at all others (the test's time limit)."""
    rows, columns = np.mgrid[:1000, :1000]
    instances = (rows // 4 * 250 + columns // 4 + 1).astype(np.int32)
    instances[(rows % 4 == 3) | (columns % 4 == 3)] = 0
    weights = border_weights(instances, w0=10, sigma_px=1)
    np.testing.assert_allclose(weights[500, 3], 10 * np.exp(-4 / 2), rtol=1e-6)
