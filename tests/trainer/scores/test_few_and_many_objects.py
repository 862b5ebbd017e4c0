"""Scores of frames without objects, and with very many."""

import math

import numpy as np
import pytest
from skimage.metrics import adapted_rand_error

from preprocess.weights import border_weights
from tests.trainer.scores.test_scores import ours, theirs
from trainer.inference.instances import InstanceRules, instances_of
from trainer.predict.inputs import Job
from trainer.predict.outputs import Choice, encoders, result_of
from trainer.predict.runtimes import Outputs
from trainer.scores import ctc_scores, detections, isbi_scores
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.images.pages import Page
from unet_tfrecords.dataset.regions import touching_pixels

CELLS = np.kron(np.array([[1, 0], [0, 7]], np.int32), np.ones((9, 9), np.int32))


NOTHING = np.zeros_like(CELLS)


@pytest.mark.parametrize(
    "truths, results, seg, found",
    [
        ([CELLS, CELLS], [NOTHING, CELLS], 0.5, 0.5),  # an empty result finds nothing
        ([CELLS, NOTHING], [CELLS, CELLS], 1.0, 0.9),  # two too many
        ([CELLS, NOTHING], [CELLS, NOTHING], 1.0, 1.0),  # rightly nothing
    ],
)
def test_empty_frames_count_as_in_py_ctcmetrics(tmp_path, truths, results, seg, found):
    assert ours(truths, results) == pytest.approx((seg, found))
    assert theirs(tmp_path, truths, results) == pytest.approx((seg, found))


def test_without_any_object_there_is_no_score():
    """py-ctcmetrics raises here, and scikit-image gives NaN."""
    assert ctc_scores.seg_objects(NOTHING, CELLS) == []
    assert ctc_scores.det(ctc_scores.detection(NOTHING, CELLS)) is None
    none = np.zeros(CELLS.shape, bool)
    counts = detections.match_counts(NOTHING, NOTHING, none)
    assert set(detections.average_precision(counts)) == {None}
    with pytest.raises(ValueError, match="no foreground"):
        isbi_scores.joint(NOTHING, CELLS)
    error, *_ = adapted_rand_error(CELLS, NOTHING)
    assert isbi_scores.rand_error(isbi_scores.joint(CELLS, NOTHING)) == pytest.approx(
        error
    )


def many(number: int, step: int = 3) -> np.ndarray:
    """So many squares of step - 1 px, a pixel apart, int32 [H, W]."""
    edge = math.ceil(math.sqrt(number))
    squares = np.arange(1, edge * edge + 1, dtype=np.int32).reshape(edge, edge)
    squares[squares > number] = 0
    image = np.kron(squares, np.ones((step, step), np.int32))
    image[::step] = image[:, ::step] = 0
    return image


@pytest.mark.slow
def test_65535_instances_are_all_counted():
    instances = many(65535).astype(np.uint16)
    assert len(np.unique(instances)) == 65536
    assert not touching_pixels(instances, (instances > 0).view(np.uint8)).any()
    weights = border_weights(instances, w0=10, sigma_px=5)
    assert weights.max() > 9 and (weights[instances > 0] == 0).all()
    found = ctc_scores.seg_objects(instances, instances)
    counted = ctc_scores.detection(instances, instances)
    none = np.zeros(instances.shape, bool)
    matched = detections.match_counts(instances, instances, none)
    assert len(found) == 65535 and {each.jaccard for each in found} == {1.0}
    assert counted == ctc_scores.Detection(65535, 0, 0, 0)
    assert matched[0].tolist() == [65535, 0, 0]


@pytest.mark.slow
def test_more_instances_than_16_bits_hold():
    """All are scored; the file that would hold their numbers is refused, in a line."""
    instances = many(66000)
    probabilities = np.stack([instances == 0, instances > 0], -1).astype(np.float32)
    rules = InstanceRules(min_size_px=0, border_px=0)
    found = instances_of(probabilities, rules)
    assert found.max() == 66000 and found.dtype == np.int32
    seg = ctc_scores.seg_objects(instances, found)
    assert len(seg) == 66000 and {each.jaccard for each in seg} == {1.0}
    image = np.zeros((*instances.shape, 1), np.uint8)
    job = Job(Page("t000.tif"), "t000", "t000", 1, 0.0)
    choice = Choice(format="ctc", overlays=False, rules=rules)
    made = Outputs(probabilities, None)
    [encode] = encoders(job, choice).values()
    with pytest.raises(UserError, match="66000 instances, .* 65535; .*--min_size_px"):
        encode(result_of(image, made, choice))
