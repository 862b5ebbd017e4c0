"""Instances of classes: holes, specks, borders, against drawn truth."""

import numpy as np
import pytest
from scipy import ndimage

from preprocess.weights import touching_pixels
from trainer.instances import InstanceRules, instances_of

AS_IT_IS = InstanceRules(min_size_px=0, fill_holes=False, border_px=0)


def picture(*rows: str) -> np.ndarray:
    return np.array([[int(c) for c in row.replace(".", "0")] for row in rows], np.uint8)


def test_components_are_scipys():
    classes = (np.random.default_rng(0).random((90, 70)) < 0.55).astype(np.uint8)
    expected, number = ndimage.label(classes)
    found = instances_of(classes, AS_IT_IS)
    assert found.max() == number
    pairs = np.unique(np.stack([found.ravel(), expected.ravel()]), axis=1)
    assert pairs.shape[1] == number + 1  # one to one


def test_classes_that_touch_are_two_instances():
    found = instances_of(picture("1122", "1122"), AS_IT_IS)
    np.testing.assert_array_equal(found, picture("1122", "1122"))


def test_holes_of_one_instance_are_filled_and_others_are_not():
    rules = InstanceRules(min_size_px=2, border_px=0)
    classes = picture(
        "11111.222",
        "1...1.2.2",
        "1.1.1.2.2",
        "1...1.2.2",
        "11111.222",
        "..11.22..",
        "..1...2..",
        "..11.22..",
    )
    found = instances_of(classes, rules)
    assert (found[:5, :5] == found[0, 0]).all()  # the speck inside too
    assert (found[:5, 6:] == found[0, 6]).all()
    assert not found[6, 3:6].any()  # open to the frame's edge


def test_a_hole_between_two_instances_stays():
    classes = picture("1111", "1..2", "1..2", "2222") % 3
    found = instances_of(classes, InstanceRules(min_size_px=0, border_px=0))
    assert not found[1:3, 1:3].any()


def test_specks_are_dropped_and_the_rest_numbered_without_gaps():
    classes = picture("1.111", "..111", "1....", ".1111")
    found = instances_of(classes, InstanceRules(4, False, 0))
    assert sorted(np.unique(found)) == [0, 1, 2]
    assert (found > 0).sum() == 10


@pytest.mark.parametrize(
    "gap, border_px, closed", [(1, 1, True), (2, 1, False), (2, 2, True), (3, 3, True)]
)
def test_gaps_are_given_back_up_to_a_width(gap, border_px, closed):
    classes = np.zeros((20, 20 + gap), np.uint8)
    classes[2:18, 2:10] = 1
    classes[2:18, 10 + gap : 18 + gap] = 1
    found = instances_of(classes, InstanceRules(0, False, border_px))
    assert (found[8:12, 2 : 18 + gap] > 0).all() == closed
    # The outer rim is no border between two.
    assert not found[:, :2].any() and not found[:2, :9].any()
    assert len(np.unique(found)) == 3


def test_separated_cells_get_their_pixels_back(random_cells):
    """What training takes from touching cells, prediction gives back."""
    for seed in range(5):
        truth = random_cells(seed)
        parted = touching_pixels(truth, np.ones_like(truth))
        classes = ((truth > 0) & ~parted).astype(np.uint8)
        found = instances_of(classes, InstanceRules(0, False, 1))
        without = instances_of(classes, InstanceRules(0, False, 0))
        given = found[parted]
        assert (without[parted] == 0).all()
        assert (given > 0).mean() > 0.9


def test_an_empty_frame_has_none():
    assert not instances_of(np.zeros((30, 40), np.uint8), InstanceRules()).any()
