"""Numbers at their ends, through the commands: each result is a defined one.

docs/reliability.md has the definitions as a table.
"""

import csv
import json
import math
import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tifffile

from tests.commands import lines_of, run
from tests.folders import (
    FOLDER,
    bars,
    go_the_road,
    lay,
    metrics_of,
    noise,
    plain,
    split,
)
from unet_tfrecords.dataset.dataset_info import read_info
from unet_tfrecords.dataset.images.formats import read_image
from unet_tfrecords.dataset.images.pages import Page
from unet_tfrecords.dataset.shards import read_tiles

IDS = (1, 7, 65535)
LARGEST = np.finfo(np.float64).max


def everything(seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Frames with all that numbers can be, by name."""
    grey, cells = noise(40, 40, seed), bars(40, 40)
    saturated = np.where(cells > 0, 65535, grey).astype(np.uint16)
    return {
        "plain": plain(seed=seed),
        "tall": plain(size=(500, 1), seed=seed),
        "wide": plain(size=(1, 500), seed=seed),
        "tiny": plain(size=(5, 7), seed=seed),  # far smaller than a tile of 60 px
        "two": (np.array([[3, 9 + seed]], np.uint8), np.array([[0, 1]], np.uint8)),
        "huge": (grey * 1e30, cells),
        "widest": ((grey / 199 - 0.5) * LARGEST * 1.9, cells),
        "denormal": (grey * 5e-324, cells),
        "float32": (grey.astype(np.float32) - 1e6, cells),
        "saturated": (saturated, cells),
        "ids": (noise(40, 40, seed + 10), bars(40, 40, IDS)),
        "empty": (noise(40, 40, seed + 20), np.zeros((40, 40), np.uint8)),
        "full": (noise(40, 40, seed + 30), np.ones((40, 40), np.uint8)),
    }


@pytest.fixture(scope="module")
def worked(tmp_path_factory) -> pathlib.Path:
    """Every odd frame in one data set, in all three splits, through every command."""
    top = tmp_path_factory.mktemp("numbers")
    frames = everything(1)
    validation, test = (
        {f"{mark}-{name}": frame for name, frame in everything(seed).items()}
        for mark, seed in (("v", 2), ("t", 3))
    )
    raw = lay(top / "raw", frames | validation | test)
    settings = [
        *FOLDER,
        "--config.data.labels=instance",
        *split(validation, test),
        "--config.train.class_weights=balanced",
    ]
    go_the_road(raw, top, *settings, workdir=top / "run")
    return top


@pytest.mark.slow
def test_every_frame_becomes_finite_tiles(worked):
    data = str(worked / "data")
    info = read_info(data)
    frames = {source.frame.split("/")[-1] for source in info.sources}
    assert frames >= set(everything(1)) and info.geometry.bits == 16
    for name in info.splits:
        for shard in info.splits[name].shards:
            for tile in read_tiles(f"{data}/{shard.name}", info.geometry):
                values = (tile.image - tile.mean) / tile.std
                assert np.isfinite(values).all() and (tile.std > 0).all()
                assert np.isfinite(tile.weight).all()


@pytest.mark.slow
def test_training_stays_finite(worked):
    lines = metrics_of(worked / "run")
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert math.isfinite(lines[-1]["val_mean_iou"])


@pytest.mark.slow
def test_numbers_of_instances_come_back_from_the_scores(worked):
    text = (worked / "run/evaluation-test-objects.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    found = {int(row["label"]) for row in rows if row["frame"].endswith("/t-ids")}
    assert found == set(IDS)


@pytest.mark.slow
def test_scores_of_empty_and_full_frames_are_defined(worked):
    frames = json.loads((worked / "run/evaluation-test.json").read_text())["frames"]
    [empty] = [scores for key, scores in frames.items() if key.endswith("/t-empty")]
    assert empty["det"] is None and empty["seg"] is None  # nothing to find
    assert empty["recall_1"] is None and 0 <= empty["pixel_error"] <= 1
    [full] = [scores for key, scores in frames.items() if key.endswith("/t-full")]
    assert full["recall_0"] is None and full["seg"] is not None
    for scores in frames.values():
        assert all(v is None or math.isfinite(v) for v in scores.values())


GIVEN = {
    "constant": np.full((40, 40), 9, np.uint8),
    "zeros": np.zeros((40, 40), np.uint16),
    "one": np.full((1, 1), 5, np.uint8),
    "tall": noise(500, 1),
    "wide": noise(1, 500),
    "saturated": np.full((40, 40), 65535, np.uint16),
    "huge": noise(40, 40) * 1e30,
    "flat": np.full((40, 40), 1e30),
    "widest": (noise(40, 40) / 199 - 0.5) * LARGEST * 1.9,
}
REFUSED = {
    "nan": np.full((40, 40), np.nan, np.float32),
    "infinite": np.where(noise(40, 40) > 100, np.inf, 1.0),
    "complex": noise(40, 40) * 1j,
    "flags": noise(40, 40) > 100,  # True is black there, says the file
}


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["", "--tta", "--format=isbi"])
def test_predict_segments_every_finite_image(worked, tmp_path, capfd, ending):
    for name, image in (GIVEN | REFUSED).items():
        (tmp_path / "in").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / f"in/{name}.tif", image)
    more = ["--probabilities=npy", *([ending] if ending else [])]
    where = {"input": tmp_path / "in", "output": tmp_path / "out"}
    assert run("predict", *more, model=worked / "model", **where) == 2
    lines = [x for x in lines_of(capfd, "predict") if "not written" not in x]
    assert len(lines) == len(REFUSED)
    for name in REFUSED:
        [line] = [line for line in lines if f"/{name}.tif" in line]
        assert "NaN or infinite" in line or name in ("complex", "flags")
    for name, image in GIVEN.items():
        made = np.load(tmp_path / f"out/{name}_probabilities.npy")
        assert made.shape == (*image.shape, 2)
        np.testing.assert_allclose(made.sum(-1), 1, atol=1e-5)
        if image.min() == image.max():  # normalises to 0, whatever the value
            assert np.ptp(made, axis=(0, 1)).max() < 1e-5
    assert not list((tmp_path / "out").glob("nan*"))


@pytest.mark.slow
@pytest.mark.parametrize("signature", ["serving_default", "image_tta"])
@pytest.mark.parametrize(
    "value", [np.nan, np.inf, -3.4e38], ids=["nan", "infinite", "overflow"]
)
def test_a_served_image_that_is_not_finite_is_refused(worked, signature, value):
    """Without the check such an image was segmented: a ReLU makes 0 of NaN."""
    model = tf.saved_model.load(str(worked / "model/1"))
    image = noise(40, 40).astype(np.float32)[None, ..., None]
    image[0, 0, 0], image[0, 3, 4] = 3.4e38, value
    with pytest.raises(tf.errors.InvalidArgumentError, match="holds NaN or infinity"):
        model.signatures[signature](image=tf.constant(image))


# --- Frames that preprocess refuses ---------------------------------------------------

UNUSABLE = {
    "constant": (np.full((40, 40), 9, np.uint8), "every pixel is 9; remove it"),
    "one": (np.full((1, 1), 9, np.uint8), "every pixel is 9; remove it"),
    "nan": (np.full((40, 40), np.nan), "holds NaN or infinite values"),
    "infinite": (np.where(noise(40, 40) > 9, np.inf, 1.0), "NaN or infinite values"),
    "complex": (noise(40, 40) * 1j, "complex numbers"),
}


@pytest.mark.slow
def test_frames_of_no_use_are_listed_all_at_once(tmp_path, capfd):
    frames = {
        name: (image, np.resize(plain()[1], image.shape))
        for name, (image, _) in UNUSABLE.items()
    }
    raw = lay(tmp_path / "raw", {"a": plain(), "b": plain(seed=2), **frames})
    given = [*FOLDER, *split(["b"], []), "--config.data.labels=instance"]
    where = {"input": raw, "output": tmp_path / "data"}
    assert run("preprocess", *given, **where) == 2
    lines = lines_of(capfd, "preprocess")
    assert len(lines) == len(UNUSABLE)
    for name, (_, said) in UNUSABLE.items():
        assert any(f"{name}.tif: " in line and said in line for line in lines)
    assert run("preprocess", *given, **where, on_bad_frame="skip") == 0
    skipped = read_info(str(tmp_path / "data")).skipped
    assert {entry.frame.split("/")[-1] for entry in skipped} == set(UNUSABLE)


@pytest.mark.parametrize(
    "values, spread",
    [
        ((-LARGEST, 0, LARGEST), (0, 32768, 65535)),
        ((0, 5e-324, 1e-323), (0, 32768, 65535)),
        ((1e-310, 2e-310, 3e-310), (0, 32768, 65535)),
        ((0, 5e29, 1e30), (0, 32768, 65535)),
        ((-1e30, -1e30, -1e30), (0, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
    ],
)
def test_floats_are_spread_over_16_bits(tmp_path, values, spread):
    tifffile.imwrite(tmp_path / "a.tif", np.array([values], np.float64))
    found = read_image(Page(str(tmp_path / "a.tif")), 1)
    np.testing.assert_array_equal(found[0, :, 0], spread)


@pytest.mark.slow
def test_a_channel_of_one_value_normalises_to_zero(tmp_path):
    image = np.stack([noise(40, 40), np.full((40, 40), 9, np.uint8), noise(40, 40, 2)])
    image = np.moveaxis(image, 0, -1)
    frames = {n: (image + np.uint8(i), bars(40, 40)) for i, n in enumerate("abc")}
    raw = lay(tmp_path / "raw", frames)
    given = [*FOLDER, "--config.model.channels=3", *split(["b"], ["c"])]
    given += ["--config.data.labels=instance"]
    assert run("preprocess", *given, input=raw, output=tmp_path / "data") == 0
    info = read_info(str(tmp_path / "data"))
    shard = info.splits["validation"].shards[0].name
    tile = next(iter(read_tiles(f"{tmp_path}/data/{shard}", info.geometry)))
    assert tile.std[1] == 1 and tile.mean[1] == 10
    assert ((tile.image - tile.mean) / tile.std)[..., 1].max() == 0


# --- Classes and truth that are not there ---------------------------------------------


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
        *FOLDER,
        "--config.data.labels=class",
        "--config.model.classes=4",
        *split(["v"], ["t", "u"]),
        "--config.train.class_weights=balanced",
        "--config.train.loss=cross_entropy+dice",
    ]
    assert run("preprocess", *settings, input=raw, output=top / "data") == 0
    assert run("train", *settings, data=top / "data", workdir=top / "run") == 0
    for name in ("test", "validation"):
        assert run("evaluate", workdir=top / "run", input=raw, split=name) == 0
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
