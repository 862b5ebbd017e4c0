"""Classes, truth and objects that are not there, or far too many."""

import json
import math
import pathlib
import time

import numpy as np
import pytest
from skimage.metrics import adapted_rand_error

from preprocess import main
from preprocess.weights import border_weights
from tests.conftest import TINY_DATA
from tests.robustness.tiny import CONFIG, lay, metrics_of, noise, plain, split
from tests.trainer.scores.test_scores import ours, theirs
from trainer.inference.instances import InstanceRules, instances_of
from trainer.main import COMMANDS
from trainer.predict.inputs import Job
from trainer.predict.outputs import Choice, encoders, result_of
from trainer.scores import ctc_scores, detections, isbi_scores
from unet_tfrecords.command.cli import main as run
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.dataset_info import read_info
from unet_tfrecords.dataset.images.formats import Page
from unet_tfrecords.dataset.regions import touching_pixels


@pytest.fixture(scope="module")
def sparse(tmp_path_factory) -> pathlib.Path:
    """Four classes: one never occurs, one in tests alone; frames without truth."""
    top = tmp_path_factory.mktemp("sparse")
    nothing, unknown = np.zeros((40, 40), np.uint8), np.full((40, 40), 255, np.uint8)
    raw = lay(
        top / "raw",
        {
            "a": plain((1,)),
            "b": (noise(40, 40, 2), nothing),
            "c": (noise(40, 40, 3), unknown),
            "v": (noise(40, 40, 4), unknown),
            "t": (noise(40, 40, 5), unknown),
            "u": plain((3,), seed=6),
        },
    )
    settings = [
        CONFIG,
        *TINY_DATA,
        "--config.data.labels=class",
        "--config.model.classes=4",
        *split(["v"], ["t", "u"]),
        "--config.train.class_weights=balanced",
        "--config.train.loss=cross_entropy+dice",
    ]
    there = f"--input={raw}"
    for command, given in (
        (main.COMMAND, [*settings, there, f"--output={top}/data"]),
        (COMMANDS["train"], [*settings, f"--data={top}/data", f"--workdir={top}/run"]),
        (COMMANDS["evaluate"], [f"--workdir={top}/run", there]),
        (COMMANDS["evaluate"], [f"--workdir={top}/run", there, "--split=validation"]),
    ):
        assert run(command, given) == 0
    return top


@pytest.mark.slow
def test_a_class_that_never_occurs_costs_nothing(sparse):
    info = read_info(str(sparse / "data"))
    assert info.splits["train"].class_pixels[2:] == (0, 0)
    lines = metrics_of(sparse / "run")
    assert all(math.isfinite(line["loss"]) for line in lines)
    result = json.loads((sparse / "run/evaluation-test.json").read_text())
    scores = result["scores"]
    assert scores["recall_2"] is None  # never there
    assert scores["recall_3"] is not None  # in the test frames
    assert (sparse / "run/report.html").exists()


@pytest.mark.slow
def test_frames_without_any_label_have_no_scores(sparse):
    last = metrics_of(sparse / "run")[-1]
    assert last["val_mean_iou"] is None and last["val_cross_entropy"] is None
    result = json.loads((sparse / "run/evaluation-validation.json").read_text())
    assert result["scores"]["mean_iou"] is None
    assert result["scores"]["pixel_error"] is None


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
def test_65535_instances_take_seconds():
    instances = many(65535).astype(np.uint16)
    assert len(np.unique(instances)) == 65536
    started = time.process_time()
    assert not touching_pixels(instances, (instances > 0).view(np.uint8)).any()
    weights = border_weights(instances, w0=10, sigma_px=5)
    weighed = time.process_time()
    assert weights.max() > 9 and (weights[instances > 0] == 0).all()
    found = ctc_scores.seg_objects(instances, instances)
    counted = ctc_scores.detection(instances, instances)
    none = np.zeros(instances.shape, bool)
    matched = detections.match_counts(instances, instances, none)
    scored = time.process_time()
    assert len(found) == 65535 and {each.jaccard for each in found} == {1.0}
    assert counted == ctc_scores.Detection(65535, 0, 0, 0) and matched[0].tolist() == [
        65535,
        0,
        0,
    ]
    assert scored - weighed < 5 and weighed - started < 60  # s of cores


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
    [encode] = encoders(job, choice).values()
    with pytest.raises(UserError, match="66000 instances, .* 65535; .*--min_size_px"):
        encode(result_of(image, probabilities, choice))
