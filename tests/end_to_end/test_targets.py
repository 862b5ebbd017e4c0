"""A network of targets with planes: all ways from an image to its cells are one."""

import json
import pathlib
import shutil

import cv2
import numpy as np
import pytest
import tensorflow as tf
import tifffile

from tests.commands import TINY, run
from trainer.evaluation.evaluate_run import load_run
from trainer.inference.instances import InstanceRules, instances_of
from trainer.predict import runtimes
from unet_tfrecords.dataset import dataset_info, later_settings, shards

pytestmark = [
    pytest.mark.slow,
    # Of bioimage.io's library, which leaves files open.
    pytest.mark.filterwarnings("ignore"),
]
PLANES = {"border": 1, "distance": 2}
LEARN = (
    "--config.train.steps=6",
    "--config.train.validate_every_steps=3",
    "--config.train.augment.flip=true",
    "--config.train.augment.quarter_turns=true",
)


@pytest.fixture(scope="module", params=list(PLANES))
def target(request):
    return request.param


@pytest.fixture(scope="module")
def settings(target):
    return (*TINY, f"--config.data.targets={target}")


@pytest.fixture(scope="module")
def road(cells, settings, target, tmp_path_factory):
    """Data, a short training and a model of it, with ONNX and bioimage.io's package."""
    place = tmp_path_factory.mktemp(target)
    data, work = place / "data", place / "run"
    assert run("preprocess", *settings, input=cells, output=data) == 0
    assert run("train", *settings, *LEARN, data=data, workdir=work) == 0
    more = {"onnx": True, "bioimageio": True}
    assert run("export", workdir=work, output=place / "model", **more) == 0
    return place


@pytest.fixture(scope="module")
def image(cells):
    return tifffile.imread(sorted((cells / "01").glob("*.tif"))[0])


def test_records_and_model_say_the_target(road, target):
    info = dataset_info.read_info(str(road / "data"))
    planes = PLANES[target]
    assert info.geometry.planes == planes
    assert info.config["data"]["targets"] == target
    [shard, *_] = sorted((road / "data").glob("train-*.tfrecord"))
    tile = next(shards.read_tiles(str(shard), info.geometry))
    assert tile.planes.shape == (20, 20, planes)
    about = json.loads((road / "model/1/assets.extra/model.json").read_text())
    assert about["targets"] == {"name": target, "version": 1, "planes": planes}
    assert run("verify", data=road / "data") == 0


def test_every_way_through_the_network_is_one(road, target, image):
    version = str(road / "model/1")
    by_run = load_run(str(road / "run"), "best", False).outputs(image[..., None])
    for tta in (False, True):
        [by_tf] = runtimes.load(version, runtime="tensorflow", tta=tta)
        [by_onnx] = runtimes.load(version, runtime="onnx", tta=tta)
        ours, theirs = (each.segment(image[..., None]) for each in (by_tf, by_onnx))
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
        assert ours.planes.min() >= 0 and ours.planes.max() <= 1
        if not tta:
            np.testing.assert_allclose(ours.planes, by_run["planes"], atol=1e-5)
        else:
            assert np.abs(ours.planes - by_run["planes"]).max() > 1e-5
    assert ours.probabilities.shape == (*image.shape, 2)
    assert ours.planes.shape == (*image.shape, PLANES[target])


def test_served_tiles_and_records_give_planes(road, target):
    model = tf.saved_model.load(str(road / "model/1"))
    [shard, *_] = sorted((road / "data").glob("train-*.tfrecord"))
    records = list(tf.data.TFRecordDataset(str(shard)).take(2))
    of_records = model.signatures["tf_example"](examples=tf.stack(records))
    assert of_records["planes"].shape == (2, 20, 20, PLANES[target])
    info = dataset_info.read_info(str(road / "data"))
    tile = next(shards.read_tiles(str(shard), info.geometry))
    of_tile = model.signatures["tile"](
        tile=tf.constant(tile.image[None], tf.float32),
        mean=tf.constant(tile.mean[None]),
        std=tf.constant(tile.std[None]),
    )
    np.testing.assert_allclose(of_tile["planes"][0], of_records["planes"][0], atol=1e-5)


def test_predicted_cells_are_those_of_the_decoder(road, cells, image, tmp_path):
    rules = {"seed_threshold": 0.3, "smoothing_px": 0, "min_size_px": 5}
    where = {"input": cells / "01", "output": tmp_path / "seen"}
    assert run("predict", model=road / "model", instances=True, **where, **rules) == 0
    [by_tf] = runtimes.load(str(road / "model/1"), runtime="tensorflow")
    probabilities, planes = by_tf.segment(image[..., None])
    about = json.loads((road / "model/1/assets.extra/model.json").read_text())
    own = InstanceRules(**{**about["postprocessing"], **rules})
    expected = instances_of(probabilities, own, planes)
    name = sorted((cells / "01").glob("*.tif"))[0].stem
    path = tmp_path / "seen" / f"{name}_instances.tif"
    np.testing.assert_array_equal(tifffile.imread(path), expected)
    assert cv2.imread(str(path.with_name(f"{name}_mask.png"))) is not None


def test_blocks_have_the_cells_of_the_whole(road, cells, tmp_path):
    """Up to single pixels: planes are kept in steps, by which watersheds may turn."""
    rules = {"seed_threshold": 0.3, "min_size_px": 5, "instances": True}
    where = {"model": road / "model", "input": cells / "01"}
    assert run("predict", **where, **rules, output=tmp_path / "whole") == 0
    how = {"format": "ome-tiff", "block_px": 64}
    assert run("predict", **where, **rules, **how, output=tmp_path / "blocks") == 0
    found, expected = (
        tifffile.imread(sorted((tmp_path / to).glob("*_instances.tif"))[0]).astype(int)
        for to in ("blocks", "whole")
    )
    assert ((found > 0) == (expected > 0)).mean() > 0.999
    assert found.max() == expected.max() > 0
    pairs, pixels = np.unique(
        np.stack([found, expected]).reshape(2, -1), axis=1, return_counts=True
    )
    same = {pair[1]: count for *pair, count in zip(*pairs, pixels, strict=True)}
    assert sum(same.values()) > 0.995 * found.size


def test_rules_are_found_by_tune(road, cells):
    where = {"workdir": road / "run", "input": cells}
    assert run("evaluate", tune=True, **where) == 0
    found = json.loads((road / "run/postprocessing.json").read_text())
    assert "seed_threshold" in json.dumps(found)


def test_data_of_another_target_is_refused(
    road, settings, shards_folder, tmp_path, capsys
):
    code = run("train", *settings, data=shards_folder, workdir=tmp_path / "run")
    assert code == 2 and "targets" in capsys.readouterr().err
    code = run("train", *TINY, data=road / "data", workdir=tmp_path / "run")
    assert code == 2 and "targets" in capsys.readouterr().err


def test_runs_and_data_from_before_there_were_targets_go_on(
    shards_folder, trained, tmp_path
):
    """Neither the data's settings nor the run's config name any there, nor a zoom."""
    info = json.loads((pathlib.Path(shards_folder) / "dataset_info.json").read_text())
    assert "targets" not in info["config"]["data"] and "planes" not in info["geometry"]
    work = tmp_path / "run"
    shutil.copytree(trained, work)
    config = json.loads((work / "config.json").read_text())
    config = later_settings.stripped(config)
    assert not {"targets", "neighbours"} & config["data"].keys()
    (work / "config.json").write_text(json.dumps(config))
    (work / "SHA256SUMS").unlink()
    more = ("--config.train.steps=4", "--config.train.validate_every_steps=2")
    where = {"data": shards_folder, "workdir": work}
    assert run("train", *TINY, *more, extend_steps=5, **where) == 0
    assert run("export", workdir=work, output=tmp_path / "model") == 0
