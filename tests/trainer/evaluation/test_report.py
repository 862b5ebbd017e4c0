"""Evaluation, tuning, report, comparison and cross-validation, as commands."""

import csv
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import types

import numpy as np
import pytest

from configs import base
from tests.commands import TINY, mistakes, module, process, run, started
from tests.conftest import until
from tests.dataset import ome_zarr
from trainer.evaluation import folds, gallery
from trainer.evaluation.report import charts, page
from trainer.evaluation.report.comparison import compare
from trainer.inference.instances import InstanceRules
from trainer.run import workdir
from trainer.scores.frame import pooled
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset import later_settings
from unet_tfrecords.dataset.dataset_info import Source, SourceFile
from unet_tfrecords.dataset.images import formats
from unet_tfrecords.dataset.images.frames import Frame
from unet_tfrecords.dataset.images.pages import Page


@pytest.fixture(scope="module")
def evaluated(trained, cells, tmp_path_factory) -> pathlib.Path:
    """A short run, tuned and evaluated."""
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(trained, folder)
    for more in (["--tune"], []):
        assert run("evaluate", *more, workdir=folder, input=cells) == 0
    return folder


def read(folder: pathlib.Path, name: str):
    return json.loads((folder / name).read_text())


@pytest.mark.slow
def test_evaluate_writes_scores_objects_and_sums(evaluated):
    from trainer.evaluation.evaluate_run import read_measured

    result = read(evaluated, "evaluation-test.json")
    assert {"seg", "det", "op_csb", "ap", "iou_1", "surface_px"} <= set(
        result["scores"]
    )
    assert result["headline"] == "op_csb" and len(result["frames"]) == 2
    measured = read_measured(str(evaluated), "test")
    assert pooled(measured) == result["scores"]
    text = (evaluated / "evaluation-test-objects.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    jaccards = [float(row["jaccard"]) for row in rows]
    assert np.mean(jaccards) == pytest.approx(result["scores"]["seg"])
    assert {row["fate"] for row in rows} <= {"found", "missed", "split", "merged"}
    low, high = result["intervals"]["pixel_error"]
    assert low <= result["scores"]["pixel_error"] <= high
    same = "from the same video as the training frames"
    assert result["frames_are"] == same and result["edge_px"] == 0
    assert same in (evaluated / "report.html").read_text()


@pytest.mark.parametrize(
    "layout, scored, said",
    [
        ("ctc", "01/t3 01/t4", "from the same video as the training frames"),
        ("ctc", "02/t3", "from another video than the training frames"),
        ("ctc", "01/t3 02/t3", "some from the same video as the training frames"),
        ("ctc", "011/t3", "from another video than the training frames"),
        ("isbi", "01/z3", "from the same stack as the training frames"),
        ("folder", "01/a", "from the same group as the training frames"),
        ("folder", "02/a/b", "from another group than the training frames"),
    ],
)
def test_a_score_says_how_near_its_frames_are_to_those_trained_on(layout, scored, said):
    from trainer.evaluation.evaluate_run import relation

    frames = [
        Frame("set", *name.split("/", 1), layout, Page("f.tif"))
        for name in scored.split()
    ]
    trained = {"set/01", "set/01/deeper"}
    data = base.get_config().data
    data.layout, data.group = layout, "^(..)"
    assert relation(frames, trained, data) == said
    if layout == "folder":
        data.group = ""
        assert "the same folder" in relation(frames, trained, data)


def test_what_was_trained_on_is_known_by_content_wherever_it_is_too(tmp_path):
    """An image that is in two splits, as in a video that stands still."""
    from trainer.evaluation.evaluate_run import origin_of

    digests = {}
    for name in ("still.tif", "other.tif"):
        (tmp_path / name).write_bytes(name.encode())
        digests[name] = hashlib.sha256(name.encode()).hexdigest()

    def frame(name):
        return Frame("set", "01", name, "ctc", Page(str(tmp_path / name)))

    entries = [
        Source(f"set/01/t{n}", split, 9, 9, (SourceFile("x", 0, digests["still.tif"]),))
        for n, split in enumerate(("validation", "train", "test"))
    ]
    info = types.SimpleNamespace(read_sources=lambda _: iter(entries))
    given = ("", info, base.get_config().data)
    with pytest.raises(UserError, match="still.tif: was trained on"):
        origin_of([frame("still.tif")], *given)
    zarr = ome_zarr.write(tmp_path / "learned.zarr", np.ones((9, 9), np.uint8))
    digests["learned"] = formats.sha256_of(str(zarr))
    files = (SourceFile("learned.zarr", 0, digests["learned"]),)
    entries.append(Source("set/01/t9", "train", 9, 9, files))
    with pytest.raises(UserError, match="learned.zarr: was trained on"):
        origin_of([frame("learned.zarr")], *given)
    outside = "from files that are not of the data set"
    assert origin_of([frame("other.tif")], *given) == outside


@pytest.mark.slow
def test_objects_at_the_edge_are_left_out_by_a_flag(evaluated, cells, tmp_path, capsys):
    work = tmp_path / "run"
    shutil.copytree(evaluated, work)
    assert run("evaluate", "--edge_px=45", workdir=work, input=cells) == 0
    assert "within 45 px of the frame's edge" in capsys.readouterr().out
    found, whole = (read(each, "evaluation-test.json") for each in (work, evaluated))
    assert found["edge_px"] == 45
    few, all_ = (
        (each / "evaluation-test-objects.csv").read_text().count("\n")
        for each in (work, evaluated)
    )
    assert 1 < few < all_ and found["scores"]["iou_1"] == whole["scores"]["iou_1"]
    assert run("evaluate", "--edge_px=64", workdir=work, input=cells) == 2
    assert "128 x 128 px, all of which is within 64 px" in capsys.readouterr().err


@pytest.mark.slow
def test_tuning_gains_on_validation_frames_and_is_used(evaluated, cells, capsys):
    found = read(evaluated, "postprocessing.json")
    assert found["after"] >= found["before"]
    assert all("/01/" in key for key in found["frames"])
    tested = set(read(evaluated, "evaluation-test.json")["frames"])
    assert not tested & set(found["frames"])  # never on test frames
    rules = workdir.read_rules(str(evaluated))
    assert rules._asdict() == found["rules"]
    assert read(evaluated, "evaluation-test.json")["rules"] == found["rules"]


def test_tune_and_split_exclude_each_other(evaluated, cells, capsys):
    given = "--tune", "--split=test"
    assert run("evaluate", *given, workdir=evaluated, input=cells) == 2
    assert "on the validation split" in capsys.readouterr().err


@pytest.mark.slow
def test_export_and_predict_use_what_was_tuned(evaluated, cells, tmp_path):
    """Masks by the tuned threshold; a flag goes before it."""
    import cv2

    rules = InstanceRules(0.2, 0.0, 0.0, 3, False, 0)
    tuned, model = tmp_path / "run", tmp_path / "model"
    shutil.copytree(evaluated, tuned)
    workdir.write_rules(str(tuned), rules, {"before": 0, "after": 0, "frames": []})
    assert run("export", workdir=tuned, output=model) == 0
    about = read(tmp_path / "model/1/assets.extra", "model.json")
    assert about["postprocessing"] == rules._asdict()

    def masks(name: str, *more: str):
        given = *more, "--probabilities=npy"
        where = {"input": cells / "01/t000.tif", "output": tmp_path / name}
        assert run("predict", *given, model=model, **where) == 0
        mask = cv2.imread(str(tmp_path / name / "t000_mask.png"), -1)
        return mask, np.load(tmp_path / name / "t000_probabilities.npy")

    mask, probabilities = masks("own")
    np.testing.assert_array_equal(mask, probabilities[..., 1] > 0.2)
    assert (
        read(tmp_path / "own", "predict.json")["settings"]["rules"] == rules._asdict()
    )
    middle = float(np.median(probabilities[..., 1]))
    mask, probabilities = masks("other", f"--threshold={middle}")
    np.testing.assert_array_equal(mask, probabilities[..., 1] > middle)
    import tensorflow as tf

    loaded = tf.saved_model.load(str(model / "1"))
    image = cv2.imread(str(cells / "01/t000.tif"), -1)[None, ..., None]
    served = loaded.signatures["serving_default"](image=tf.constant(image, tf.float32))
    np.testing.assert_array_equal(
        served["classes"][0], served["probabilities"][0, ..., 1] > 0.2
    )


def test_rules_that_cannot_be_are_told(evaluated, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(evaluated, run)
    content = {"rules": {"threshold": 3, "min_size_px": -1}}
    (run / "postprocessing.json").write_text(json.dumps(content))
    assert len(mistakes(workdir.read_rules, str(run))) == 2
    (run / "postprocessing.json").write_text('{"rules": {"treshold": 0.4}}')
    with pytest.raises(UserError, match="treshold"):
        workdir.read_rules(str(run))


def test_train_makes_a_report(trained):
    text = (trained / "report.html").read_text()
    assert "Not evaluated yet" in text and "Training loss" in text
    assert "./launch.sh train" in text and "synthetic.py:smoke" in text


def test_report_is_whole_and_alone(evaluated):
    """Scores, curves, pictures; nothing is fetched and no name is used twice."""
    text = (evaluated / "report.html").read_text()
    result = read(evaluated, "evaluation-test.json")
    assert f"{result['scores']['seg']:.4f}" in text
    assert text.count("data:image/jpeg") == 5 * len(
        gallery.read(str(evaluated), "test")
    )
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)
    names = re.findall(r'\bid="([^"]+)"', text)
    assert len(names) == len(set(names)) > 10
    for used in re.findall(r'(?:href="#|url\(#)([^")]+)', text):
        assert used in names
    assert "currentColor" in text


def test_what_comes_from_outside_is_escaped(evaluated, tmp_path):
    run = tmp_path / "<b>run & more"
    shutil.copytree(evaluated, run)
    text = page.html(str(run))
    assert "<b>run" not in text and "&lt;b&gt;run &amp; more" in text


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_report_in_a_browser(evaluated, browser, width, scheme):
    """No console message, no request, nothing wider than the window, text in sight."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme
    )
    seen = context.new_page()
    said, asked = [], []
    seen.on("console", lambda message: said.append(message.text))
    seen.on("pageerror", lambda error: said.append(str(error)))
    seen.on("request", lambda request: asked.append(request.url))
    address = (evaluated / "report.html").as_uri()
    seen.goto(address)
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [address]
    assert seen.evaluate("document.documentElement.scrollWidth") <= width
    broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert seen.evaluate(broken) == 0
    light = seen.evaluate("getComputedStyle(document.body).color")
    assert light == ("rgb(0, 0, 0)" if scheme == "light" else "rgb(255, 255, 255)")
    axis = "getComputedStyle(document.querySelector('svg text')).fill"
    assert seen.evaluate(axis) == light
    context.close()


def test_charts_are_the_same_each_time():
    def drawn():
        chart = charts.Chart("one", "step", "loss")
        return chart.lines({"a": [(i, i * i) for i in range(50)]}, smooth=True).svg("x")

    assert drawn() == drawn()


def test_gallery_keeps_best_and_worst_and_draws_no_other():
    rng = np.random.default_rng(0)
    for _ in range(30):
        shown = gallery.Gallery(2)
        scores = rng.permutation(9).tolist()
        for score in scores:
            shown.add(str(score), score, lambda: {})
        assert [entry[0] for entry in shown.shown] == [0, 1, 7, 8]
    small = gallery.Gallery(2)
    for score in (3, None, 1):
        small.add(str(score), score, lambda: {})
    assert [key for _, key, _ in small.shown] == ["None", "1", "3"]


@pytest.mark.slow
def test_compare_runs(evaluated, trained, tmp_path, capsys):
    output = tmp_path / "compare.html"
    assert run("compare", evaluated, trained, output=output) == 0
    said = capsys.readouterr().out
    assert "SEG, gold truth" in said and "*" in said
    text = output.read_text()
    assert "has not been evaluated" in text and "Training loss" in text
    assert "None." in text  # no setting differs
    other = tmp_path / "other"
    shutil.copytree(evaluated, other)
    (other / "SHA256SUMS").unlink()  # a run changed on purpose
    changed = read(other, "config.json")
    changed["train"]["learning_rate"] = 0.5
    (other / "config.json").write_text(json.dumps(changed))
    result = read(other, "evaluation-test.json")
    result["scores"] |= {"seg": 2.0, "pixel_error": 2.0}
    (other / "evaluation-test.json").write_text(json.dumps(result))
    rows = compare([str(evaluated), str(other)], "test", str(output))
    best = {row["name"]: row["values"].index(row["best"]) for row in rows}
    assert best["SEG, gold truth"] == 1 and best["pixel error"] == 0
    assert "train.learning_rate" in output.read_text()


@pytest.mark.parametrize("given", [[], ["one"], ["one", "one"]])
def test_compare_wants_two_runs(given, capsys):
    assert run("compare", *given) == 2
    assert "two or more runs" in capsys.readouterr().err


@pytest.mark.long
def test_cross_validation_goes_on_after_a_kill(cells, tmp_path, capsys):
    """Killed in its second fold; then every frame is tested once, fold 0 not redone."""
    folder = tmp_path / "folds"
    given = [*TINY, "--folds=3", "--notune"]
    command = module("cross_validate", *given, input=cells, workdir=folder)
    job = started(*command, start_new_session=True)
    until(job, (folder / "fold-1/train/checkpoints").exists, seconds=200)
    os.killpg(job.pid, signal.SIGKILL)
    job.communicate()
    first = folder / "fold-0/train/evaluation-test.json"
    made = first.stat().st_mtime_ns
    done = process(*command)
    assert done.returncode == 0, done.stderr
    assert first.stat().st_mtime_ns == made
    result = read(folder, "evaluation-test.json")
    assert result["num_frames"] == 8 and len(result["by_fold"]) == 3
    each = [
        set(read(folder, f"fold-{i}/train/evaluation-test.json")["frames"])
        for i in range(3)
    ]
    assert sum(map(len, each)) == 8 and set.union(*each) == set(result["frames"])
    errors = [scores["pixel_error"] for scores in result["by_fold"]]
    assert min(errors) <= result["scores"]["pixel_error"] <= max(errors)
    text = (folder / "report.html").read_text()
    assert "Fold by fold" in text and "fold 2" in text
    assert run("export", workdir=folder, output=tmp_path / "model") == 0
    about = read(tmp_path / "model/1/assets.extra", "model.json")
    assert len(about["runs"]) == 3
    changed = process(*command, "--tta")
    assert changed.returncode == 2 and "tta" in changed.stderr


def test_cross_validations_from_before_later_settings_resume(config, tmp_path):
    folder = str(tmp_path)
    folds._claim(folder, config, folds=3)
    path = tmp_path / folds.SETUP_NAME
    there = json.loads(path.read_text())
    there["config"] = later_settings.stripped(there["config"])
    assert "zoom" not in there["config"]["data"]["augment"]
    path.write_text(json.dumps(there))
    folds._claim(folder, config, folds=3)
    config.data.augment.zoom = 0.5
    assert (
        "zoom: 0.0 there, 0.5 here"
        in mistakes(folds._claim, folder, config, folds=3)[0]
    )


def test_cross_validation_wants_three_folds(cells, tmp_path, capsys):
    where = {"input": cells, "workdir": tmp_path}
    assert run("cross_validate", *TINY, "--folds=2", **where) == 2
    assert "--folds=2" in capsys.readouterr().err
