"""Several runs as one model: it gives the mean of what each gives alone."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tifffile

from tests.commands import TINY, refused, run
from trainer.inference import ensemble
from trainer.inference.instances import InstanceRules
from trainer.predict import runtimes
from trainer.run import workdir

LEARN = ("--config.train.steps=4", "--config.train.validate_every_steps=2")
TARGETS = {"classes": 0, "border": 1, "distance": 2}


@pytest.mark.parametrize("planes", TARGETS.values())
def test_as_one_network_they_give_mean_probabilities(planes):
    rng = np.random.default_rng(planes)
    each = [rng.normal(0, 3, (2, 5, 6, 3 + planes)).astype(np.float32) for _ in "abc"]
    each[0][0, 0, 0] = 200, -200, -200, *[90] * planes  # as sure as can be
    networks = [lambda _, made=made: tf.constant(made) for made in each]
    one = ensemble.as_one(networks, classes=3, planes=planes)(tf.zeros([2, 9, 9, 1]))
    powers = [np.exp(e[..., :3] - e[..., :3].max(-1, keepdims=True)) for e in each]
    expected = np.mean([p / p.sum(-1, keepdims=True) for p in powers], axis=0)
    np.testing.assert_allclose(tf.nn.softmax(one[..., :3]), expected, atol=1e-6)
    if planes == 1:
        given = np.mean([1 / (1 + np.exp(-e[..., 3:])) for e in each], axis=0)
        np.testing.assert_allclose(tf.sigmoid(one[..., 3:]), given, atol=1e-6)
    if planes == 2:
        given = np.mean([np.clip(e[..., 3:], 0, 1) for e in each], axis=0)
        np.testing.assert_allclose(one[..., 3:], given, atol=1e-6)


@pytest.fixture(scope="module", params=["classes", "border"])
def settings(request):
    return (*TINY, f"--config.data.targets={request.param}")


@pytest.fixture(scope="module")
def two(cells, settings, tmp_path_factory):
    """Two runs on the same data by other seeds, rules of one tuned by hand."""
    place = tmp_path_factory.mktemp("two")
    assert run("preprocess", *settings, input=cells, output=place / "data") == 0
    for name, seed in (("a", 1), ("b", 2)):
        given = (*settings, *LEARN, f"--config.seed={seed}")
        where = {"data": place / "data", "workdir": place / name}
        assert run("train", *given, **where) == 0
    rules = InstanceRules(threshold=0.4, min_size_px=50)
    workdir.write_rules(str(place / "b"), rules, {})
    return place


@pytest.fixture(scope="module")
def models(two):
    """Of each run, and of both."""
    for name, runs in (("a", "a"), ("b", "b"), ("both", "ab")):
        given = ",".join(str(two / each) for each in runs)
        where = {"workdir": given, "output": two / "models" / name}
        assert run("export", "--onnx", "--tile=108", **where) == 0
    return two / "models"


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["tensorflow", "onnx"])
@pytest.mark.parametrize("tta", [False, True])
def test_the_model_of_both_gives_the_mean_of_the_models_of_each(
    models, cells, runtime, tta
):
    image = tifffile.imread(sorted((cells / "01").glob("*.tif"))[0])[..., None]

    def outputs(name):
        [one] = runtimes.load(str(models / name / "1"), runtime=runtime, tta=tta)
        return one.segment(image)

    both, a, b = map(outputs, ("both", "a", "b"))
    mean = (a.probabilities + b.probabilities) / 2
    np.testing.assert_allclose(both.probabilities, mean, atol=2e-6)
    assert np.abs(a.probabilities - b.probabilities).max() > 1e-3
    if both.planes is not None:
        mean = (a.planes + b.planes) / 2
        np.testing.assert_allclose(both.planes, mean, atol=2e-6)


@pytest.mark.slow
def test_what_the_model_says_of_its_runs(models):
    extra = models / "both/1/assets.extra"
    about = json.loads((extra / "model.json").read_text())
    assert len(about["runs"]) == 2 and about["scores"] == {}
    assert about["postprocessing"]["threshold"] == 0.4  # the lower of two medians
    assert about["postprocessing"]["min_size_px"] == 20
    card = (extra / "model_card.md").read_text()
    assert "probabilities of 2 such networks" in card
    assert "were not measured" in card
    alone = json.loads((models / "a/1/assets.extra/model.json").read_text())
    assert len(alone["runs"]) == 1


@pytest.mark.slow
def test_runs_that_do_not_go_together_are_refused(two, trained, tmp_path, capsys):
    def line(*folders):
        given = ",".join(map(str, folders))
        return refused(capsys, "export", workdir=given, output=tmp_path / "model")

    other = tmp_path / "other"
    other.mkdir()
    for path in (two / "b").rglob("*"):
        there = other / path.relative_to(two / "b")
        if path.is_dir():
            there.mkdir()
        else:
            there.write_bytes(path.read_bytes())
    config = json.loads((other / "config.json").read_text())
    config["data"]["name"] = "other cells"
    (other / "config.json").write_text(json.dumps(config))
    (other / "SHA256SUMS").unlink()
    assert "config.data.name: drawn-cells there, other cells here" in line(
        two / "a", other
    )
    assert f"{two / 'a'}: is named twice" in line(two / "a", two / "a")
    assert "missing; --workdir names" in line(two / "a", tmp_path / "nothing")


@pytest.mark.slow
def test_each_network_has_the_moments_of_its_own_data_set(cells, tmp_path):
    """Folds that normalise by their own training frames, by all ways."""
    models, runs = {}, []
    for fold in (0, 1):
        folder = tmp_path / f"fold{fold}"
        split = "--config.data.split"
        given = (
            *TINY,
            *(f"{split}.method=fold", f"{split}.folds=3", f"{split}.fold={fold}"),
            "--config.data.normalization=dataset",
        )
        assert run("preprocess", *given, input=cells, output=folder / "data") == 0
        where = {"data": folder / "data", "workdir": folder / "run"}
        assert run("train", *given, *LEARN, **where) == 0
        runs.append(folder / "run")
    for name, folders in (("a", runs[:1]), ("b", runs[1:]), ("both", runs)):
        given = ",".join(map(str, folders))
        where = {"workdir": given, "output": tmp_path / name}
        assert run("export", "--onnx", "--tile=108", **where) == 0
    about = [workdir.read_info(str(folder)).normalization for folder in runs]
    assert about[0] != about[1]
    image = tifffile.imread(sorted((cells / "01").glob("*.tif"))[0])[..., None]
    for runtime in ("tensorflow", "onnx"):
        for name in ("a", "b", "both"):
            [one] = runtimes.load(str(tmp_path / name / "1"), runtime=runtime)
            models[name] = one.segment(image).probabilities
        mean = (models["a"] + models["b"]) / 2
        np.testing.assert_allclose(models["both"], mean, atol=2e-5)
        assert np.abs(models["a"] - models["b"]).max() > 1e-3


@pytest.mark.slow
def test_a_run_may_have_a_comma_in_its_name(two, tmp_path):
    odd = tmp_path / "lr=0.1,wd=0"
    odd.symlink_to(two / "a")
    assert run("export", workdir=odd, output=tmp_path / "model") == 0


@pytest.mark.slow
def test_folds_of_a_cross_validation_are_one_model(two, settings, tmp_path, capsys):
    folds = tmp_path / "folds"
    for number, name in enumerate("ab"):
        (folds / f"fold-{number}").mkdir(parents=True)
        (folds / f"fold-{number}/train").symlink_to(two / name)
    where = {"workdir": folds, "output": tmp_path / "model"}
    assert "not all of its folds are done" in refused(capsys, "export", **where)
    (folds / "evaluation-test.json").write_text(json.dumps({"folds": 2}))
    assert run("export", **where) == 0
    about = tmp_path / "model/1/assets.extra/model.json"
    assert len(json.loads(about.read_text())["runs"]) == 2
