"""ISBI 2012's scores against scikit-image and sums by hand."""

import math

import numpy as np
import pytest
from scipy import ndimage
from skimage import metrics as skimage_metrics
from skimage.measure import label

from tests.trainer.scores.shapes import block, membranes
from trainer.scores import isbi_scores


def partitions(seed: int):
    """A partition with membranes, and one that is like it."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(2, 64, 64)), (0, 4, 4))
    truth = label(np.abs(noise[0]) > 0.012, connectivity=1)
    other = np.abs(noise[0] + 0.3 * noise[1])
    return truth, label(other > 0.012, connectivity=1)


@pytest.mark.parametrize("seed", range(5))
def test_rand_error_is_scikit_images(seed):
    truth, result = partitions(seed)
    error, precision, recall = skimage_metrics.adapted_rand_error(
        truth, result, ignore_labels=(0,)
    )
    assert isbi_scores.rand_error(isbi_scores.joint(truth, result)) == pytest.approx(
        error, abs=1e-12
    )
    # Squares instead of pairs: the same but for pairs of a pixel with itself.
    agreement = isbi_scores.v_rand(isbi_scores.joint(truth, result))
    assert agreement.f == pytest.approx(1 - error, abs=5e-3)
    assert agreement.split == pytest.approx(precision, abs=5e-3)
    assert agreement.merge == pytest.approx(recall, abs=5e-3)


@pytest.mark.parametrize("seed", range(5))
def test_v_rand_and_v_info_are_sums_by_hand(seed):
    truth, result = partitions(seed)
    inside = truth > 0
    n = inside.sum()
    p, s, t = {}, {}, {}
    for a, b in zip(truth[inside].tolist(), result[inside].tolist(), strict=True):
        p[a, b] = p.get((a, b), 0) + 1 / n
        t[a] = t.get(a, 0) + 1 / n
        s[b] = s.get(b, 0) + 1 / n
    both, of_s, of_t = (sum(x * x for x in d.values()) for d in (p, s, t))
    table = isbi_scores.joint(truth, result)
    assert isbi_scores.v_rand(table) == pytest.approx(
        (both / (0.5 * of_s + 0.5 * of_t), both / of_t, both / of_s)
    )
    mutual = sum(x * math.log(x / (t[a] * s[b])) for (a, b), x in p.items())
    h_s, h_t = (-sum(x * math.log(x) for x in d.values()) for d in (s, t))
    assert isbi_scores.v_info(table) == pytest.approx(
        (2 * mutual / (h_s + h_t), mutual / h_s, mutual / h_t)
    )
    split, merge = skimage_metrics.variation_of_information(
        result[inside], truth[inside]
    )
    assert sorted((split, merge)) == pytest.approx(
        sorted(((h_s - mutual) / math.log(2), (h_t - mutual) / math.log(2)))
    )


def test_cut_cells_cost_the_split_part_and_joined_ones_the_merge_part():
    truth = block((0, 0, 20, 20), (20, 0, 40, 20), (0, 20, 40, 40))
    cut = truth.copy()
    cut[0:20, 0:10] = 7
    joined = np.where(truth == 2, 1, truth)
    for agree in (isbi_scores.v_rand, isbi_scores.v_info):
        assert agree(isbi_scores.joint(truth, truth)) == pytest.approx((1, 1, 1))
        found = agree(isbi_scores.joint(truth, cut))
        assert found.merge == pytest.approx(1) and found.split < 0.95
        found = agree(isbi_scores.joint(truth, joined))
        assert found.split == pytest.approx(1) and found.merge < 0.95


@pytest.mark.parametrize("width", [1, 3, 6, 11])
def test_thinning_makes_scores_blind_to_how_thick_membranes_are(width):
    truth = isbi_scores.segments_of(membranes(3), thin=False)
    segments = isbi_scores.segments_of(membranes(width), thin=True)
    assert segments.max() == 4  # to the frame's edge: no cell meets another there
    assert isbi_scores.v_rand(isbi_scores.joint(truth, segments)).f > 0.97
    as_is = isbi_scores.joint(
        truth, isbi_scores.segments_of(membranes(width), thin=False)
    )
    assert (isbi_scores.rand_error(as_is) < 0.01) == (width <= 3)


def test_thinning_keeps_gaps_and_cells():
    open_ = membranes(5)
    open_[10:14] = True  # a gap in the vertical membrane: two cells meet
    assert isbi_scores.segments_of(open_, thin=True).max() == 3
    solid = np.zeros((40, 40), bool)
    assert isbi_scores.segments_of(solid, thin=True).max() <= 1


def test_warping_error_forgives_displacement_and_not_topology():
    truth = membranes(3)
    assert isbi_scores.warping_error(truth, truth) == 0
    moved = np.ones_like(truth)
    moved[31:34] = moved[:, 27:30] = False
    assert (truth != moved).mean() > 0.1
    assert isbi_scores.warping_error(truth, moved) == 0
    assert isbi_scores.warping_error(truth, membranes(9)) == 0
    # A gap that joins two cells: membrane has to stay across it, one pixel wide.
    joined = truth.copy()
    joined[10:14] = True
    assert isbi_scores.warping_error(truth, joined) == pytest.approx(4 / 3600)
    # A cell too many, a cell lost, a hole in a membrane: a pixel can't be made away.
    extra = truth.copy()
    extra[8:14, 8] = extra[8:14, 13] = extra[8, 8:14] = extra[13, 8:14] = False
    assert isbi_scores.warping_error(truth, extra) > 0
    lost = truth & ~((np.arange(60)[:, None] < 29) & (np.arange(60) < 29))
    assert isbi_scores.warping_error(truth, lost) == pytest.approx(1 / 3600)


@pytest.mark.parametrize("seed", range(3))
def test_warping_keeps_the_number_of_cells_and_membranes(seed):
    """Euler's number and both counts of pieces, by scikit-image, stay the truth's."""
    rng = np.random.default_rng(seed)
    truth, result = ndimage.gaussian_filter(rng.normal(size=(2, 40, 40)), (0, 2, 2)) > 0
    simple = isbi_scores._SIMPLE
    for code in range(256):
        ring = [bool(code >> bit & 1) for bit in range(8)]
        patch = np.zeros((2, 3, 3), bool)
        for (down, right), inside in zip(isbi_scores._RING, ring, strict=True):
            patch[:, down + 1, right + 1] = inside
        patch[1, 1, 1] = True
        pieces = [(label(p, connectivity=1), label(~p, connectivity=2)) for p in patch]
        # Within its neighbourhood a simple pixel joins or parts nothing it touches.
        touching = {pieces[0][0][y, x] for y, x in ((0, 1), (1, 0), (1, 2), (2, 1))}
        one_inside = len(touching - {0}) == 1
        one_outside = pieces[1][1].max() == 1
        assert simple[code] == (one_inside and one_outside)
    error = isbi_scores.warping_error(truth, result)
    assert 0 < error < (truth != result).mean()


def test_slices_are_scored_at_every_threshold():
    interior = membranes(3)
    probability = ndimage.gaussian_filter(interior.astype(np.float32), 1.5)
    segments = isbi_scores.segments_of(interior, thin=False)
    found = isbi_scores.scores_of_slice(segments, interior, probability)
    assert len(found) == len(isbi_scores.THRESHOLDS) == 9
    for threshold, scores in zip(isbi_scores.THRESHOLDS, found, strict=True):
        proposed = probability > threshold
        assert scores.pixel_error == pytest.approx((proposed != interior).mean())
        assert scores.warping_error == isbi_scores.warping_error(interior, proposed)
    with pytest.raises(ValueError, match="no foreground"):
        isbi_scores.joint(np.zeros((3, 3), int), np.ones((3, 3), int))
