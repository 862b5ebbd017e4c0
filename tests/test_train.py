"""The loop: replicas agree with one device, resuming goes on exactly, it learns."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from preprocess.cli import main
from preprocess.errors import UserError
from preprocess.main import COMMAND
from preprocess.shards import read_info
from trainer import input_pipeline, strategy, workdir
from trainer.check import check_fit, check_train_config
from trainer.train import State, make_steps, train
from trainer.validate import Validator

TEST_CONFIG = (
    "--config.data.tile_size=60",
    "--config.model.depth=2",
    "--config.data.augmentations=2",
)


@pytest.fixture(scope="module")
def data(cells, tmp_path_factory):
    """Shards of drawn cells: 490 training tiles of 60 px."""
    from pathlib import Path

    folder = tmp_path_factory.mktemp("shards") / "data"
    config = Path(__file__).parent.parent / "configs/synthetic.py:smoke"
    arguments = [f"--config={config}", *TEST_CONFIG, f"--input={cells}"]
    assert main(COMMAND, [*arguments, f"--output={folder}"]) == 0
    return str(folder)


@pytest.fixture
def config(config):
    config.train.learning_rate = 1e-2
    config.train.global_batch = 4
    config.train.steps = 20
    config.train.log_every_steps = 1
    config.train.validate_every_steps = 10
    config.train.checkpoint_every_steps = 5
    config.train.steps_per_call = 3
    return config


def batches(data, config, **changes):
    info = read_info(data)
    arguments = dict(
        num_tiles=info["splits"]["train"]["num_tiles"],
        global_batch=config.train.global_batch,
        shuffle_tiles=50,
        seed=config.seed,
    )
    return input_pipeline.training_batches(
        input_pipeline.shard_paths(info, data, "train"),
        input_pipeline.geometry_of(info),
        **(arguments | changes),
    )


def keys(dataset, count):
    return [batch["key"].numpy().tolist() for batch in dataset.take(count)]


def test_order_is_a_function_of_seed_epoch_and_step(data, config):
    per_epoch = -(-490 // 4)
    first = keys(batches(data, config), 3 * per_epoch)
    assert keys(batches(data, config), 3 * per_epoch) == first
    for start in (1, 100, per_epoch, 2 * per_epoch + 7):
        resumed = keys(batches(data, config, start_step=start), 20)
        assert resumed == first[start : start + 20]
    assert keys(batches(data, config, seed=2), 20) != first[:20]


def test_every_epoch_has_each_tile_once_in_another_order(data, config):
    flat = sum(keys(batches(data, config), 245), [])
    epochs = flat[:490], flat[490:980]
    assert sorted(epochs[0]) == sorted(epochs[1]) and len(set(epochs[0])) == 490
    assert epochs[0] != epochs[1]


def test_neighbours_in_a_batch_come_from_different_frames(data, config):
    batch = keys(batches(data, config, global_batch=16, shuffle_tiles=256), 1)[0]
    assert len({key.split(b"/")[2] for key in batch}) > 2


def losses_of(chosen, data, config, steps=20):
    info = read_info(data)
    with chosen.scope():
        state = State(config, "float32")
    iterator = iter(chosen.experimental_distribute_dataset(batches(data, config)))
    run = make_steps(
        state,
        chosen,
        input_pipeline.geometry_of(info),
        [1.0, 2.0],
        config.train.global_batch,
    )
    losses = [run(iterator, tf.constant(n)).numpy() for n in (1, steps - 1)]
    return np.concatenate(losses), [v.numpy() for v in state.network.weights]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_two_replicas_give_one_devices_losses(data, config, optimizer):
    config.train.optimizer = optimizer
    config.train.learning_rate = 1e-3
    config.model.dropout = 0.5  # the masks agree too
    one, _ = losses_of(tf.distribute.OneDeviceStrategy("/cpu:0"), data, config)
    mirrored = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    assert mirrored.num_replicas_in_sync == 2
    two, _ = losses_of(mirrored, data, config)
    assert one[-1] != one[0]
    np.testing.assert_allclose(two, one, rtol=1e-5)


def metrics(folder) -> list[dict]:
    lines = (folder / workdir.METRICS_NAME).read_text().splitlines()
    return [json.loads(line) for line in lines]


def series(folder):
    return [(m["step"], m["loss"], m["learning_rate"]) for m in metrics(folder)]


def weights_of(folder):
    reader = tf.train.load_checkpoint(str(folder / workdir.CHECKPOINTS))
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if "network" in name or "optimizer" in name
    }


def test_train_stop_resume_is_the_uninterrupted_run(data, config, tmp_path):
    config.model.dropout = 0.3
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    train(config, data, str(whole))

    class Killed(Exception):
        pass

    def kill(*arguments, **named):
        raise Killed

    from trainer import train as module

    # Dies at step 10's validation: after the checkpoint at 5, in the middle of things.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.Validator, "__call__", kill)
        with pytest.raises(Killed):
            train(config, data, str(halves))
    assert len(metrics(halves)) == 9
    train(config, data, str(halves))
    assert series(halves) == series(whole)
    first, second = weights_of(whole), weights_of(halves)
    assert first.keys() == second.keys() and len(first) > 20
    for name, value in first.items():
        np.testing.assert_array_equal(second[name], value, err_msg=name)


def test_it_learns_and_leaves_every_artefact(data, config, tmp_path):
    config.train.steps = 120
    config.train.global_batch = 16
    config.train.learning_rate = 5e-3
    config.train.log_every_steps = 20
    config.train.validate_every_steps = 60
    config.train.checkpoint_every_steps = 40
    config.model.width = 8
    train(config, data, str(tmp_path))
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines] == [20, 40, 60, 80, 100, 120]
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]
    for line in lines:
        assert {"step", "loss", "learning_rate", "images_per_s"} <= line.keys()
        validated = line["step"] in (60, 120)
        assert ("val_mean_iou" in line) == validated
    assert lines[-1]["val_mean_iou"] > 0.65
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["train"]["steps"] == 120
    assert (tmp_path / "checkpoints/ckpt-120.index").exists()
    assert list((tmp_path / "logs").glob("events.out.tfevents.*"))
    assert pictures_in(tmp_path / "logs") > 0


def pictures_in(logs) -> int:
    count = 0
    for path in logs.glob("events*"):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            count += sum("truth" in value.tag for value in event.summary.value)
    return count


def test_another_config_in_the_same_workdir_is_refused(data, config, tmp_path):
    config.train.steps = 1
    train(config, data, str(tmp_path))
    config.train.learning_rate = 1e-4
    with pytest.raises(UserError, match="train.learning_rate: 0.01 there, 0.0001 here"):
        train(config, data, str(tmp_path))


def test_nan_stops_and_names_the_step(data, config, tmp_path):
    config.train.learning_rate = 1e38
    config.train.optimizer = "sgd"
    with pytest.raises(UserError, match=r"the loss is (nan|inf) at step \d+, learning"):
        train(config, data, str(tmp_path))


def test_mismatch_of_data_and_model_names_both_numbers(data, config):
    config.model.depth, config.data.tile_size = 3, 92
    with pytest.raises(UserError) as caught:
        check_fit(read_info(data), config)
    lines = caught.value.problems
    assert "config.data.tile_size: 60 there, 92 here" in lines[0]
    assert "config.model.depth: 2 there, 3 here" in lines[1]


def test_config_that_reads_other_truth_or_splits_is_refused(data, config):
    config.data.split.test = 0.51
    config.data.labels = "both"
    config.seed = 9  # of initial weights and order: several runs on one data set
    with pytest.raises(UserError) as caught:
        check_fit(read_info(data), config)
    named = [line.split(":")[0] for line in caught.value.problems]
    assert named == ["config.data.labels", "config.data.split.test"]


def test_failed_start_claims_no_workdir(data, config, tmp_path):
    for change in (dict(width=0), dict(dropout=1.0)):
        wrong = config.copy_and_resolve_references()
        wrong.model.update(change)
        with pytest.raises(UserError):
            train(wrong, data, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_workdir_where_checkpoints_would_be_lost_is_refused(data, config, tmp_path):
    with pytest.raises(UserError, match="finds no checkpoints"):
        train(config, data, str(tmp_path / "run [1]"))


def test_bad_train_settings_are_all_named(config):
    config.train.optimizer = "lion"
    config.train.global_batch = 0
    config.train.precision = "float8"
    with pytest.raises(UserError) as caught:
        check_train_config(config)
    assert len(caught.value.problems) == 3


def test_missing_info_and_missing_shard_are_named(data, config, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data/train-00001-of-00002.tfrecord").unlink()
    with pytest.raises(UserError, match="train-00001-of-00002.tfrecord: missing"):
        train(config, str(tmp_path / "data"), str(tmp_path / "run"))
    (tmp_path / "data/dataset_info.json").unlink()
    with pytest.raises(UserError, match="dataset_info.json: missing"):
        train(config, str(tmp_path / "data"), str(tmp_path / "run"))


def test_batch_that_does_not_divide_is_refused(data, config, tmp_path, monkeypatch):
    two = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    monkeypatch.setattr("trainer.train.make_strategy", lambda: two)
    config.train.global_batch = 3
    with pytest.raises(
        UserError, match="global_batch=3 is not divisible by 2 replicas"
    ):
        train(config, data, str(tmp_path))


def test_validation_counts_every_tile_once(data, config):
    info = read_info(data)
    geometry = input_pipeline.geometry_of(info)
    paths = input_pipeline.shard_paths(info, data, "validation")
    tiles = input_pipeline.validation_batches(paths, geometry, batch=4)

    def network(image, training):
        """Says background everywhere."""
        inside = image[:, 20:-20, 20:-20, 0] * 0
        return tf.stack([inside + 1, inside], axis=-1)

    scores, pictures = Validator(network, tiles, geometry)()
    background, cells = info["splits"]["validation"]["class_pixels"]
    assert scores["pixel_error"] == pytest.approx(cells / (background + cells))
    assert pictures.shape == (4, 20, 80, 3)


def test_precision_names():
    assert strategy.resolve_precision("auto") == "float32"  # no GPU in tests
    assert strategy.resolve_precision("mixed_float16") == "mixed_float16"
    with pytest.raises(ValueError, match="float8"):
        strategy.resolve_precision("float8")


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_trains_close_to_float32(data, config, tmp_path, precision):
    config.train.steps, config.train.learning_rate = 5, 1e-3
    train(config, data, str(tmp_path / "float32"))
    config.train.precision = precision
    train(config, data, str(tmp_path / precision))
    exact = [line["loss"] for line in metrics(tmp_path / "float32")]
    mixed = [line["loss"] for line in metrics(tmp_path / precision)]
    np.testing.assert_allclose(mixed, exact, rtol=0.1)
