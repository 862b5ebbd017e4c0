"""Scores against independent programs, brute force and cases with known answers."""

import itertools

import numpy as np
import pytest
import tifffile
from ctc_metrics.metrics import det as their_det
from ctc_metrics.metrics import seg as their_seg
from ctc_metrics.utils.representations import (
    count_acyclic_graph_correction_operations,
    match,
)
from scipy import ndimage
from skimage import measure as skimage_measure
from skimage import metrics as skimage_metrics

from tests.trainer.scores.shapes import block, membranes
from trainer.inference.instances import InstanceRules, instances_of
from trainer.scores import (
    bootstrap,
    calibration,
    ctc_scores,
    detections,
    isbi_scores,
    surface,
)
from trainer.scores.frame import (
    Segmented,
    as_line,
    from_line,
    headline,
    measure,
    pooled,
    rank,
)
from trainer.scores.overlaps import overlaps, without_background
from trainer.scores.pixels import confusion_matrix, pixel_scores
from unet_tfrecords.dataset.images.formats import read_labels
from unet_tfrecords.dataset.images.frames import Objects, Truth
from unet_tfrecords.dataset.records import UNLABELLED


def changed(truth: np.ndarray, seed: int) -> np.ndarray:
    """An instance map like another: moved, some merged, cut, lost or added."""
    rng = np.random.default_rng(seed)
    moved = np.roll(truth, tuple(rng.integers(-6, 7, 2)), axis=(0, 1)).astype(int)
    numbers = np.unique(moved[moved > 0])
    for number in rng.choice(numbers, len(numbers) // 4, replace=False):
        moved[moved == number] = rng.choice(numbers)  # merged, or left
    for number in rng.choice(numbers, len(numbers) // 4, replace=False):
        rows, _ = np.nonzero(moved == number)
        if len(rows):
            half = (moved == number) & (np.arange(len(moved))[:, None] > rows.mean())
            moved[half] = moved.max() + 1
    for number in rng.choice(numbers, len(numbers) // 8, replace=False):
        moved[moved == number] = 0
    y, x = rng.integers(0, np.array(truth.shape) - 12)
    moved[y : y + 12, x : x + 12] = moved.max() + 1
    return moved.astype(np.uint16)


def theirs(folder, truths, results, markers=None):
    """SEG and DET by py-ctcmetrics."""
    rows: dict[str, list] = {"seg": [], "det": []}
    for name, references in (("seg", truths), ("det", markers or truths)):
        for index, (reference, result) in enumerate(
            zip(references, results, strict=True)
        ):
            paths = [
                str(folder / f"{name}{kind}{index}.tif") for kind in ("ref", "comp")
            ]
            tifffile.imwrite(paths[0], reference.astype(np.uint16))
            tifffile.imwrite(paths[1], result.astype(np.uint16))
            rows[name].append(match(*paths))
    ref, _, _, _, ious = zip(*rows["seg"], strict=True)
    found_seg = their_seg(list(ref), list(ious))
    ref, comp, mapped_ref, mapped_comp, _ = zip(*rows["det"], strict=True)
    # Every object a track of one frame: what of AOGM has to do with links is not asked.
    ref, comp, mapped_ref, mapped_comp = (
        [[1000 * i + n for n in frame] for i, frame in enumerate(frames)]
        for frames in (ref, comp, mapped_ref, mapped_comp)
    )

    def tracks(frames):
        return np.array([[n, i, i, 0] for i, f in enumerate(frames) for n in f])

    counts = count_acyclic_graph_correction_operations(
        tracks(ref), tracks(comp), ref, comp, mapped_ref, mapped_comp
    )
    counts["num_vertices"] = sum(len(frame) for frame in ref)
    return found_seg, their_det(**counts)


def ours(truths, results, markers=None):
    found = [
        o.jaccard
        for truth, result in zip(truths, results, strict=True)
        for o in ctc_scores.seg_objects(truth, result)
    ]
    counts = [
        ctc_scores.detection(m, r)
        for m, r in zip(markers or truths, results, strict=True)
    ]
    total = ctc_scores.Detection(*np.sum(counts, axis=0).tolist())
    return sum(found) / len(found), ctc_scores.det(total)


@pytest.mark.parametrize("seed", range(8))
def test_seg_and_det_are_py_ctcmetrics_on_random_maps(tmp_path, random_cells, seed):
    truths = [random_cells(10 * seed + i) for i in range(3)]
    results = [changed(truth, seed + i) for i, truth in enumerate(truths)]
    assert ours(truths, results) == pytest.approx(
        theirs(tmp_path, truths, results), abs=1e-9
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["DIC-C2DH-HeLa", "PhC-C2DH-U373"])
def test_seg_and_det_are_py_ctcmetrics_on_real_gold_frames(tmp_path, real_data, name):
    """Gold truth that lacks cells, silver truth changed as the result, markers."""
    base = real_data / name
    times = [p.stem[-3:] for p in sorted((base / "01_GT/SEG").glob("man_seg*.tif"))]
    gold, silver, markers = (
        [read_labels_of(base / f"01_{kind}{time}.tif") for time in times]
        for kind in ("GT/SEG/man_seg", "ST/SEG/man_seg", "GT/TRA/man_track")
    )
    assert len(times) == {"DIC-C2DH-HeLa": 9, "PhC-C2DH-U373": 15}[name]
    results = [changed(layer, i) for i, layer in enumerate(silver)]
    mine = ours(gold, results, markers)
    assert mine == pytest.approx(theirs(tmp_path, gold, results, markers), abs=1e-9)
    assert 0.1 < mine[0] < 0.95 and 0.1 < mine[1] < 0.98


def read_labels_of(path) -> np.ndarray:
    from unet_tfrecords.dataset.images.pages import Page

    return read_labels(Page(str(path)))


def test_what_became_of_each_object():
    truth = block((0, 0, 10, 10), (0, 20, 10, 30), (20, 0, 30, 10), (20, 20, 30, 30))
    result = np.zeros_like(truth)
    result[0:10, 0:8] = 5  # found: 80 of 100
    result[0:10, 20:25], result[0:10, 25:30] = 6, 7  # halves: neither is more than half
    # Object 3 is missed; 4 lies in one object that covers a fifth object too.
    truth[20:30, 31:39] = 9
    result[20:30, 20:39] = 8
    found = {o.label: o for o in ctc_scores.seg_objects(truth, result)}
    assert [found[n].fate for n in (1, 2, 3, 4, 9)] == [
        *("found", "split", "missed", "merged", "merged")
    ]
    assert found[1].jaccard == pytest.approx(0.8) and found[1].size_px == 100
    assert found[4].jaccard == pytest.approx(100 / 190) and found[4].found_as == 8
    assert found[2].jaccard == found[3].jaccard == 0
    counts = ctc_scores.detection(truth, result)
    assert counts == ctc_scores.Detection(markers=5, missed=2, extra=2, splits=1)
    assert ctc_scores.det(counts) == pytest.approx(1 - (5 + 20 + 2) / 50)


def test_exactly_half_is_no_match_and_nothing_is_nothing():
    truth = block((0, 0, 10, 10))
    assert ctc_scores.seg_objects(truth, block((0, 0, 5, 10)))[0].fate == "missed"
    empty = np.zeros_like(truth)
    assert ctc_scores.seg_objects(empty, truth) == []
    assert ctc_scores.det(ctc_scores.detection(empty, truth)) is None
    many = block(*((0, i, 1, i + 1) for i in range(0, 40, 2)))
    assert (
        ctc_scores.det(ctc_scores.detection(truth, many)) == 0
    )  # 10 + 20: no worse than nothing


def test_overlaps_are_counts_by_hand():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, (2, 30, 31))
    table = without_background(overlaps(a, b))
    found = {
        (table.first[i], table.second[j]): n
        for i, j, n in zip(table.row, table.column, table.both_px, strict=True)
    }
    for i, j in itertools.product(range(1, 5), range(1, 5)):
        assert found.get((i, j), 0) == ((a == i) & (b == j)).sum()
    assert table.first_px.tolist() == [(a == i).sum() for i in range(1, 5)]


def test_pixel_scores_by_hand():
    truth = np.array([0, 0, 0, 1, 1, 2, UNLABELLED, UNLABELLED])
    found = np.array([0, 0, 1, 1, 2, 2, 0, 1])
    scores = pixel_scores(confusion_matrix(truth, found, 4))
    assert scores["iou_0"] == pytest.approx(2 / 3)
    assert scores["iou_1"] == pytest.approx(1 / 3)
    assert scores["dice_2"] == pytest.approx(2 / 3)
    assert scores["precision_1"] == pytest.approx(1 / 2)
    assert scores["recall_0"] == pytest.approx(2 / 3)
    assert scores["iou_3"] is scores["precision_3"] is scores["recall_3"] is None
    assert scores["mean_iou"] == pytest.approx((2 / 3 + 1 / 3 + 1 / 2) / 3)
    assert scores["pixel_error"] == pytest.approx(2 / 6)


@pytest.mark.parametrize("seed", range(3))
def test_surface_distances_are_scipys(seed):
    rng = np.random.default_rng(seed)
    a, b = ndimage.gaussian_filter(rng.normal(size=(2, 50, 60)), (0, 3, 3)) > 0
    outlines = [m & ~ndimage.binary_erosion(m, border_value=1) for m in (a, b)]
    away = [ndimage.distance_transform_edt(~outline) for outline in outlines]
    distances = np.concatenate([away[1][outlines[0]], away[0][outlines[1]]])
    found = surface.surface_distances(a, b)
    assert found.pixels == len(distances)
    assert found.sum_px == pytest.approx(distances.sum(), rel=1e-5)
    assert found.hausdorff_px == pytest.approx(distances.max(), rel=1e-5)
    assert found.hausdorff_px == pytest.approx(
        skimage_metrics.hausdorff_distance(*outlines), rel=1e-5
    )
    assert surface.surface_distances(a, np.zeros_like(a)) is None


def test_calibration_of_known_probabilities():
    rng = np.random.default_rng(0)
    probability = rng.random(200_000).astype(np.float32)
    honest = rng.random(200_000) < probability
    counts = calibration.histogram(probability, honest)
    assert counts[:, :2].sum() == 200_000
    assert calibration.expected_calibration_error(counts) < 0.01
    sure = calibration.histogram(np.full(1000, 0.9, np.float32), np.arange(1000) < 600)
    assert calibration.expected_calibration_error(sure) == pytest.approx(0.3, abs=1e-3)
    nothing = calibration.histogram(np.zeros(0, np.float32), np.zeros(0, bool))
    assert calibration.expected_calibration_error(nothing) is None
    ends = calibration.histogram(np.array([0, 1], np.float32), np.array([False, True]))
    assert calibration.expected_calibration_error(ends) == 0


def test_precision_and_recall_at_each_threshold():
    rng = np.random.default_rng(1)
    probability = rng.random(5000).astype(np.float32)
    truth = rng.random(5000) < probability**2
    precision, recall = calibration.precision_recall(
        calibration.histogram(probability, truth)
    )
    for index in (10, 100, 180):
        above = probability >= np.float32(1 - (index + 1) / calibration.BINS)
        true = (above & truth).sum()
        assert precision[index] == pytest.approx(true / above.sum(), abs=2e-3)
        assert recall[index] == pytest.approx(true / truth.sum(), abs=2e-3)


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_a_matching_by_brute_force(random_cells, seed):
    from scipy.optimize import linear_sum_assignment

    truth = random_cells(seed)
    result = changed(truth, seed)
    nowhere = np.zeros(truth.shape, bool)
    counts = detections.match_counts(truth, result, nowhere)
    a, b = (np.unique(m[m > 0]) for m in (truth, result))
    iou = np.array(
        [
            [
                ((truth == i) & (result == j)).sum()
                / ((truth == i) | (result == j)).sum()
                for j in b
            ]
            for i in a
        ]
    )
    for threshold, (true, extra, missed) in zip(
        detections.THRESHOLDS, counts.tolist(), strict=True
    ):
        enough = iou > threshold
        best = enough[linear_sum_assignment(-enough.astype(float))].sum()
        assert (true, extra, missed) == (best, len(b) - best, len(a) - best)
    assert detections.average_precision(np.array([[3, 1, 2], [0, 0, 0]])) == [0.5, None]


def test_objects_in_unlabelled_places_count_nowhere():
    truth = block((0, 0, 10, 10))
    result = block((0, 0, 10, 10), (20, 20, 30, 30), (20, 0, 30, 10))
    unlabelled = np.zeros(truth.shape, bool)
    unlabelled[15:, 15:] = True
    counts = detections.match_counts(truth, result, unlabelled)
    assert counts[0].tolist() == [1, 1, 0]


@pytest.mark.slow
def test_intervals_hold_what_they_should():
    """Of means of 40 normal values, 95 % intervals hold the true one about so often."""
    rng = np.random.default_rng(0)

    def mean(values):
        return {"mean": float(np.mean(values)), "never": None}

    held = 0
    for _ in range(100):
        found = bootstrap.intervals(rng.normal(5, 2, 40).tolist(), mean)
        low, high = found["mean"]
        held += low < 5 < high
    assert 88 <= held <= 99
    assert found["never"] is None
    assert bootstrap.intervals([1.0], mean) == {"mean": None, "never": None}
    again = bootstrap.intervals([1.0, 2.0, 4.0], mean)
    assert again == bootstrap.intervals([1.0, 2.0, 4.0], mean)


def frame(seed: int, random_cells, *, gold: bool = True):
    """A drawn frame measured against a blurred version of itself."""
    instances = random_cells(seed)
    classes = (instances > 0).astype(np.uint8)
    classes[:3] = UNLABELLED
    foreground = ndimage.gaussian_filter((instances > 0).astype(np.float32), 2)
    probabilities = np.stack([1 - foreground, foreground], -1)
    objects = Objects(instances if gold else None, instances)
    truth = Truth(instances, classes)
    seen = Segmented(f"d/01/t{seed:03d}", None, truth, objects, probabilities)
    return measure(seen, InstanceRules())


@pytest.mark.parametrize("edge_px", [0, 25])
def test_objects_near_the_edge_do_not_count_as_in_the_challenge(
    tmp_path, random_cells, edge_px
):
    """py-ctcmetrics, of maps from which they were taken by their boxes."""

    def within(cells):
        left = cells.copy()
        top, end = edge_px, np.subtract(cells.shape, edge_px)
        for region in skimage_measure.regionprops(cells):
            a, b, c, d = region.bbox
            if c <= top or b >= end[1] or d <= top or a >= end[0]:
                left[cells == region.label] = 0
        return left

    truths = [random_cells(seed, count=30) for seed in range(3)]
    rules = InstanceRules(min_size_px=0, fill_holes=False, border_px=0)
    shown, frames = [], []
    for seed, truth in enumerate(truths):
        result = changed(truth, seed)
        probabilities = np.stack([result == 0, result > 0], -1).astype(np.float32)
        shown.append(instances_of(probabilities, rules))
        seen = Segmented(
            *("d/01/t000", None, Truth(truth, (truth > 0).astype(np.uint8))),
            *(Objects(truth, truth), probabilities),
            edge_px=edge_px,
        )
        frames.append(measure(seen, rules))
    left = list(map(within, shown))
    assert all(map(np.any, left))
    assert (np.stack(left) != np.stack(shown)).any() == bool(edge_px)
    scores = pooled(frames)
    their = theirs(tmp_path, list(map(within, truths)), left)
    assert (scores["seg"], scores["det"]) == pytest.approx(their, abs=1e-9)


def test_measured_frames_survive_json(random_cells):
    frames = [frame(0, random_cells), frame(1, random_cells, gold=False)]
    again = [from_line(as_line(f)) for f in frames]
    assert pooled(again) == pooled(frames)
    assert again[0].exact == frames[0].exact and again[1].exact is None


def test_pooled_scores_are_sums_over_objects_not_means_of_frames(random_cells):
    frames = [frame(i, random_cells, gold=i != 1) for i in range(3)]
    scores = pooled(frames)
    jaccards = [o.jaccard for f in (frames[0], frames[2]) for o in f.exact]
    assert scores["seg"] == pytest.approx(np.mean(jaccards))
    assert scores["op_csb"] == pytest.approx((scores["seg"] + scores["det"]) / 2)
    total = sum(f.confusion for f in frames)
    assert scores["pixel_error"] == pixel_scores(total)["pixel_error"]
    assert headline(scores) == ("op_csb", scores["op_csb"])
    assert headline(pooled([frames[1]]))[0] == "mean_iou"


def test_a_perfect_partition_scores_perfectly():
    interior = membranes(3)
    segments = isbi_scores.segments_of(interior, thin=False)
    foreground = interior.astype(np.float32)
    truth = Truth(segments, interior.astype(np.uint8))
    certain = np.stack([1 - foreground, foreground], -1)
    seen = Segmented("d/stack/z000", None, truth, Objects(None, None), certain, True)
    found = measure(seen, InstanceRules())
    scores = pooled([found])
    assert scores["v_info_merge"] == pytest.approx(1)
    assert scores["warping_error"] == scores["best_pixel_error"] == 0
    assert scores["rand_error"] == pytest.approx(0, abs=1e-9)
    assert "seg" not in scores and headline(scores)[0] == "v_rand"


def test_a_cell_taken_for_another_class_is_not_found():
    instances = block((5, 5, 15, 15), (20, 20, 30, 30))
    classes = np.select([instances == 1, instances == 2], [1, 2]).astype(np.uint8)
    objects = Objects(instances, instances)

    def scores_of(predicted):
        certain = np.eye(3, dtype=np.float32)[predicted]
        truth = Truth(instances, classes)
        return pooled(
            [
                measure(
                    Segmented("d/a/0", None, truth, objects, certain), InstanceRules()
                )
            ]
        )

    assert scores_of(classes)["seg"] == scores_of(classes)["det"] == 1
    swapped = np.where(classes == 1, 2, classes)
    found = scores_of(swapped)
    assert found["seg"] == 0.5 and found["ap_50"] == pytest.approx(1 / 3)
    assert found["det"] == pytest.approx(1 - (10 + 1) / 20)


def test_nothing_is_too_many_where_nobody_looked():
    instances = block((5, 5, 15, 15))
    classes = (instances > 0).astype(np.uint8)
    classes[:, 20:] = UNLABELLED
    predicted = classes == 1
    predicted[25:35, 25:35] = True
    certain = np.eye(2, dtype=np.float32)[predicted.astype(int)]
    for ignored, expected in ((classes == UNLABELLED, 1), (None, 1 - 1 / 10)):
        objects = Objects(instances, instances, ignored)
        truth = Truth(instances, classes)
        found = measure(
            Segmented("d/a/0", None, truth, objects, certain), InstanceRules()
        )
        assert pooled([found])["det"] == pytest.approx(expected)
        assert pooled([found])["ap_50"] == 1


def test_frames_without_gold_truth_are_ranked_like_the_others(random_cells):
    scores = [pooled([frame(0, random_cells, gold=gold)]) for gold in (True, False)]
    assert rank(scores[0]) == rank(scores[1])
    assert rank(scores[0]) == (scores[0]["seg_all"] + scores[0]["det"]) / 2


def test_a_slice_of_nothing_but_membrane_is_passed_over():
    nothing = np.zeros((40, 40), np.uint8)
    certain = np.eye(2, dtype=np.float32)[nothing]
    truth, objects = Truth(nothing, nothing), Objects(None, None)
    rules = InstanceRules()
    found = measure(Segmented("d/s/0", None, truth, objects, certain, True), rules)
    assert found.slices is None and pooled([found])["pixel_error"] == 0
