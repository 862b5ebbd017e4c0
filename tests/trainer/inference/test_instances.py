"""Instances of classes: holes, specks, borders, against drawn truth."""

import numpy as np
import pytest
from scipy import ndimage
from skimage import measure

from trainer.inference import instances
from trainer.inference.instances import InstanceRules, classes_of
from unet_tfrecords.dataset.regions import touching_pixels

AS_IT_IS = InstanceRules(min_size_px=0, fill_holes=False, border_px=0)


def instances_of(classes: np.ndarray, rules: InstanceRules) -> np.ndarray:
    """Of classes that the network is sure of."""
    number = max(2, int(classes.max()) + 1)
    certain = np.eye(number, dtype=np.float32)[classes]
    np.testing.assert_array_equal(classes_of(certain), classes)
    return instances.instances_of(certain, rules)


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
    found = instances_of(
        classes, InstanceRules(min_size_px=4, fill_holes=False, border_px=0)
    )
    assert sorted(np.unique(found)) == [0, 1, 2]
    assert (found > 0).sum() == 10


@pytest.mark.parametrize(
    "gap, border_px, closed", [(1, 1, True), (2, 1, False), (2, 2, True), (3, 3, True)]
)
def test_gaps_are_given_back_up_to_a_width(gap, border_px, closed):
    classes = np.zeros((20, 20 + gap), np.uint8)
    classes[2:18, 2:10] = 1
    classes[2:18, 10 + gap : 18 + gap] = 1
    found = instances_of(classes, AS_IT_IS._replace(border_px=border_px))
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
        found = instances_of(classes, AS_IT_IS._replace(border_px=1))
        without = instances_of(classes, AS_IT_IS._replace(border_px=0))
        given = found[parted]
        assert (without[parted] == 0).all()
        assert (given > 0).mean() > 0.9


def test_an_empty_frame_has_none():
    assert not instances_of(np.zeros((30, 40), np.uint8), InstanceRules()).any()


def two_discs(bridge_px: int) -> np.ndarray:
    """Foreground probability: discs of radius 15, certain, a bridge of 0.7 between."""
    y, x = np.mgrid[:60, :100]
    probability = np.full((60, 100), 0.02, np.float32)
    low = 30 - bridge_px // 2
    probability[low : low + bridge_px, 25:75] = 0.7
    for centre in (30, 70):
        probability[np.hypot(y - 30, x - centre) < 15] = 0.98
    return np.stack([1 - probability, probability], -1)


@pytest.mark.parametrize(
    "rules, number",
    [
        (AS_IT_IS, 1),
        (AS_IT_IS._replace(threshold=0.8), 2),  # the bridge is lost
        (AS_IT_IS._replace(core_threshold=0.9), 2),
        (AS_IT_IS._replace(split_px=3.0), 2),
        (AS_IT_IS._replace(split_px=30.0), 1),  # no bulge stands out by so much
    ],
)
def test_cells_with_a_bridge_come_apart(rules, number):
    probabilities = two_discs(8)
    found = instances.instances_of(probabilities, rules)
    assert found.max() == number
    mask = classes_of(probabilities, rules.threshold) > 0
    np.testing.assert_array_equal(found > 0, mask)  # nothing is lost on the way
    if number == 2:
        left, right = found[30, 30], found[30, 70]
        assert left != right
        assert (found[:, :40][mask[:, :40]] == left).all()
        assert (found[:, 61:][mask[:, 61:]] == right).all()


def test_a_piece_without_a_core_goes():
    probabilities = two_discs(0)
    probabilities[:, 50:] = [0.4, 0.6]
    rules = AS_IT_IS._replace(core_threshold=0.9)
    found = instances.instances_of(probabilities, rules)
    assert found[30, 30] == 1 and not found[:, 50:].any()


def test_classes_that_touch_stay_two_when_grown_from_cores():
    classes = np.repeat(picture("1122", "1122"), 5, axis=0)
    found = instances_of(classes, AS_IT_IS._replace(core_threshold=0.9))
    np.testing.assert_array_equal(found, classes)


@pytest.mark.parametrize("number", [2, 4])
def test_the_usual_threshold_takes_the_most_probable_class(number):
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(number), (40, 50)).astype(np.float32)
    np.testing.assert_array_equal(classes_of(probabilities), probabilities.argmax(-1))
    low, high = (classes_of(probabilities, t) > 0 for t in (0.2, 0.8))
    assert (low >= high).all() and low.sum() > 1.3 * high.sum()


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.77])
def test_the_graph_gives_the_same_classes(number, threshold):
    import tensorflow as tf

    from trainer.inference.segmenter import Segmenter

    rng = np.random.default_rng(number)
    probabilities = rng.dirichlet(np.ones(number), (20, 30)).astype(np.float32)
    segmenter = Segmenter(lambda x: x, depth=2, classes=number, threshold=threshold)
    found = segmenter.outcome(tf.constant(probabilities))["classes"].numpy()
    np.testing.assert_array_equal(found, classes_of(probabilities, threshold))


def test_small_cells_outlive_rules_for_large_ones():
    """A bulge or core too small by the rules is kept where a piece has no other."""
    y, x = np.mgrid[:80, :120]
    probability = np.full((80, 120), 0.02, np.float32)
    probability[np.hypot(y - 40, x - 40) < 30] = 0.98
    small = np.hypot(y - 40, x - 100) < 8
    probability[small] = 0.7
    probability[np.hypot(y - 40, x - 100) < 3] = 0.98
    probabilities = np.stack([1 - probability, probability], -1)
    for rules in (
        AS_IT_IS._replace(split_px=15.0),
        AS_IT_IS._replace(core_threshold=0.9, min_size_px=100),
    ):
        found = instances.instances_of(probabilities, rules)
        assert found.max() == 2 and (found[small] == found[40, 100]).all()
    everywhere = np.zeros((20, 20, 2), np.float32) + (0.0, 1.0)
    found = instances.instances_of(everywhere, AS_IT_IS._replace(split_px=2.0))
    assert (found == 1).all()


def test_a_border_parts_what_the_classes_join():
    """A bridge of foreground between two cells, seen as their border."""
    foreground = np.zeros((20, 60), np.float32)
    foreground[5:15, 5:55] = 1
    planes = np.zeros((20, 60, 1), np.float32)
    planes[:, 28:31, 0] = 0.9
    probabilities = np.stack([1 - foreground, foreground], axis=-1)
    rules = InstanceRules(smoothing_px=0, border_px=0)
    found = instances.instances_of(probabilities, rules, planes)
    assert found.max() == 2 and found[10, 10] != found[10, 50]
    np.testing.assert_array_equal(found > 0, foreground > 0)  # the border is theirs
    less = rules._replace(seed_threshold=0.05)
    assert instances.instances_of(probabilities, less, planes).max() == 1


def test_a_piece_without_a_seed_is_a_cell_beside_those_with_one():
    """Depths alone would lose what the network's classes are sure of."""
    foreground = np.zeros((20, 60), np.float32)
    foreground[5:15, 5:15] = foreground[5:15, 25:55] = 1
    planes = np.zeros((20, 60, 2), np.float32)
    planes[8:12, 28:34, 0] = planes[8:12, 46:52, 0] = 1  # two seeds in the second
    probabilities = np.stack([1 - foreground, foreground], axis=-1)
    rules = InstanceRules(smoothing_px=0, border_px=0)
    found = instances.instances_of(probabilities, rules, planes)
    assert found.max() == 3
    assert len(np.unique(found[5:15, 5:15])) == 1 and found[10, 10] > 0
    assert found[10, 30] != found[10, 50]
    np.testing.assert_array_equal(found > 0, foreground > 0)


def test_a_watershed_of_a_piece_does_not_depend_on_other_pieces():
    """Ties among seeds are broken by their order, not by what else is in the image."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        mask = rng.random((40, 40)) < 0.75
        height = np.rint(rng.random((40, 40)) * 4).astype(np.float32)
        seeds = measure.label(mask & (rng.random((40, 40)) < 0.05), connectivity=1)
        whole = instances._flooded(height, seeds, mask)
        for region in measure.regionprops(measure.label(mask, connectivity=1)):
            own, box = region.image, region.slice
            alone = instances._flooded(height[box], np.where(own, seeds[box], 0), own)
            np.testing.assert_array_equal(alone, np.where(own, whole[box], 0))


def test_rules_of_pixels_are_whole_numbers():
    rules = InstanceRules(min_size_px=2.5, border_px=1.5)
    problems = instances.check_rules(rules)
    assert [line.split("=")[0] for line in problems] == ["min_size_px", "border_px"]
    assert not instances.check_rules(InstanceRules(min_size_px=2.0, split_px=1.5))
