"""The loop: resuming goes on exactly, it learns, it says what is wrong."""

import collections
import json
import signal

import numpy as np
import pytest
import tensorflow as tf

from tests.commands import TINY, module, process, started
from tests.conftest import until
from tests.trainer.training.runs import assert_same_weights, run
from trainer.network.unet import build_model
from trainer.run import checkpoints, workdir
from trainer.run.restore import restore_network
from trainer.training.loop import Progress
from trainer.training.metric_writers import Logbook
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.dataset_info import read_info


class Killed(Exception):
    """Stands for a process that is gone."""


def kill(*arguments, **named):
    raise Killed


@pytest.mark.slow
def test_train_stop_resume_is_the_uninterrupted_run(
    shards_folder, train_config, tmp_path, series
):
    """With everything that has a state, and lines that a checkpoint cuts in two.

    By minutes, a checkpoint comes after each call: steps 3, 4, 5, 8, ...
    """
    config = train_config
    config.model.dropout = 0.3
    config.train.update(
        {"optimizer": "adam", "learning_rate": 1e-3, "ema": 0.9, "schedule": "cosine"}
    )
    config.train.update({"clip_norm": 1.0, "accumulate": 2, "log_every_steps": 4})
    config.train.augment.flip = True
    whole = tmp_path / "whole"
    run(config, shards_folder, whole)
    assert [line["step"] for line in series(whole)] == [4, 8, 10, 12, 16, 20]
    for minutes, resumed in ((0.0, 5), (1e-9, 8)):
        config.train.checkpoint_every_minutes = minutes
        halves = tmp_path / f"every {minutes}"
        # Dies at step 10's validation: after the checkpoint at 5, in the middle of
        # things.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("trainer.training.validate.Validator.__call__", kill)
            with pytest.raises(Killed):
                run(config, shards_folder, halves)
        assert checkpoints.complete_steps(str(halves / "checkpoints"))[-1] == resumed
        run(config, shards_folder, halves)
        assert series(halves) == series(whole)
        assert_same_weights(whole, halves, 20)


@pytest.mark.slow
def test_what_a_signal_saved_is_told_of_and_not_written_again(
    shards_folder, train_config, tmp_path, series
):
    """Stopped where a validation is due, which comes first in the next call.

    Killed after it, nothing is lost that was saved.
    """
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run(train_config, shards_folder, whole)
    advance = Logbook.advance

    def signalled(self, *arguments, **named):
        advance(self, *arguments, **named)
        if self.bar.n == 10:
            signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Logbook, "advance", signalled)
        assert not run(train_config, shards_folder, stopped)
    saved = stopped / "checkpoints/step-00000010"
    state = {path: path.stat().st_mtime_ns for path in saved.glob("state.*")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Logbook, "advance", kill)
        with pytest.raises(Killed):
            run(train_config, shards_folder, stopped)
    about = checkpoints.read_about(str(stopped / "checkpoints"), 10)
    assert about.progress["best_step"] == 10 and not about.progress["unlooked"]
    assert run(train_config, shards_folder, stopped)
    assert {path: path.stat().st_mtime_ns for path in saved.glob("state.*")} == state
    assert series(stopped) == series(whole)
    assert_same_weights(whole, stopped, 20)


@pytest.mark.long
def test_the_same_run_twice_is_the_same(
    shards_folder, train_config, tmp_path, series, metrics
):
    """Compiled or not; and compiled steps are the others within rounding."""
    losses = {}
    train_config.train.steps = 6
    for xla in ("on", "off"):
        train_config.train.xla = xla
        first, second = tmp_path / f"{xla}-1", tmp_path / f"{xla}-2"
        for folder in (first, second):
            run(train_config, shards_folder, folder)
        assert series(first) == series(second)
        assert_same_weights(first, second, 6)
        losses[xla] = [line["loss"] for line in metrics(first)]
    np.testing.assert_allclose(losses["on"], losses["off"], rtol=1e-5)


@pytest.mark.slow
def test_it_learns_and_leaves_every_artefact(
    shards_folder, train_config, tmp_path, metrics
):
    config = train_config
    config.train.optimizer = "adam"
    config.train.steps = 120
    config.train.global_batch = 16
    config.train.learning_rate = 5e-3
    config.train.log_every_steps = 20
    config.train.validate_every_steps = 60
    config.train.checkpoint_every_steps = 40
    config.train.keep_checkpoints = 1
    config.model.width = 8
    run(config, shards_folder, tmp_path)
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines] == [20, 40, 60, 80, 100, 120]
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]
    for line in lines:
        needed = {"step", "loss", "learning_rate", "gradient_norm", "images_per_s"}
        assert needed <= line.keys()
        assert ("val_mean_iou" in line) == (line["step"] in (60, 120))
    assert lines[-1]["val_mean_iou"] > 0.65
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["train"]["steps"] == 120
    # The newest; the best is one of the two that were validated.
    best = max((60, 120), key=lambda s: lines[s // 20 - 1]["val_mean_iou"])
    kept = checkpoints.complete_steps(str(tmp_path / "checkpoints"))
    assert kept == sorted({best, 120})
    network, step = restore_network(str(tmp_path), config)
    assert step == best and network.count_params() > 1000


def tags_in(logs) -> dict[str, int]:
    """How many values each tag has."""
    tags: collections.Counter[str] = collections.Counter()
    for path in logs.glob("events*"):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            tags.update(value.tag for value in event.summary.value)
    return tags


@pytest.mark.slow
def test_tensorboard_has_scalars_and_the_same_frame_each_time(
    shards_folder, train_config, tmp_path
):
    run(train_config, shards_folder, tmp_path)
    sources = read_info(shards_folder).sources
    frame = next(s.frame for s in sources if s.split == "validation")
    tags = tags_in(tmp_path / "logs")
    pictures = {tag: count for tag, count in tags.items() if "input, truth" in tag}
    # Validated at steps 10 and 20.
    assert pictures == {f"input, truth, probability, error/{frame}": 2}
    for name in ("loss", "learning_rate", "gradient_norm", "images_per_s"):
        assert name in tags
    assert {"val_mean_iou", "val_cross_entropy", "val_iou_1"} <= tags.keys()


@pytest.mark.slow
def test_accumulation_is_the_whole_batch(
    shards_folder, train_config, tmp_path, metrics
):
    losses = {}
    train_config.model.dropout = 0.5
    for parts in (1, 4):
        train_config.train.accumulate = parts
        run(train_config, shards_folder, tmp_path / str(parts))
        losses[parts] = [line["loss"] for line in metrics(tmp_path / str(parts))]
    # Sums in another order round otherwise, by 1e-7. A ReLU or pooling whose inputs are
    # that close sends its gradient elsewhere, which later steps show (1.5e-5, on AVX2).
    np.testing.assert_allclose(losses[4][:10], losses[1][:10], rtol=1e-6)
    np.testing.assert_allclose(losses[4], losses[1], rtol=1e-4)


@pytest.mark.slow
def test_the_average_of_weights_is_the_one_by_hand(
    shards_folder, train_config, tmp_path
):
    config = train_config
    config.train.update({"ema": 0.6, "checkpoint_every_steps": 1, "steps": 5})
    config.train.keep_checkpoints = 9
    run(config, shards_folder, tmp_path)

    def values(step, name):
        network = build_model(config.model, seed=9)
        inside = str(tmp_path / "checkpoints")
        checkpoints.restore(tf.train.Checkpoint(**{name: network}), inside, step)
        return network.get_weights()

    average = values(1, "averaged")
    for step in range(2, 6):
        weights = values(step, "network")
        before = step - 1  # steps made before this one
        kept = min(0.6, (1 + before) / (10 + before))
        average = [
            kept * a + (1 - kept) * w for a, w in zip(average, weights, strict=True)
        ]
        for ours, theirs in zip(average, values(step, "averaged"), strict=True):
            np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-7)
    # What is exported is the average, which has left the weights behind.
    exported = restore_network(str(tmp_path), config, "5")[0].get_weights()
    for ours, theirs in zip(average, exported, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-7)
    assert np.abs(exported[0] - weights[0]).max() > 1e-4


@pytest.mark.slow
def test_early_stopping_and_its_resume(
    shards_folder, train_config, tmp_path, capsys, monkeypatch
):
    """Scores that never get better end it, and the same command starts nothing."""
    train_config.train.update({"patience": 2, "validate_every_steps": 2})
    train_config.train.learning_rate = 1e-30  # weights and scores stay as they are
    run(train_config, shards_folder, tmp_path)
    assert "stopped early after step 6: no better mean_iou" in capsys.readouterr().out
    monkeypatch.setattr("trainer.training.trainer.Trainer.make_steps", kill)
    run(train_config, shards_folder, tmp_path)
    assert "stopped early after step 6" in capsys.readouterr().out


def test_progress_knows_the_best():
    progress = Progress()
    scores = [(0.5, True), (0.4, False), (None, False), (0.6, True), (0.6, False)]
    for step, (score, best) in enumerate(scores):
        assert progress.judge(score, step, higher=True) == best
    assert (progress.best, progress.best_step, progress.since_best) == (0.6, 3, 1)
    assert not progress.judge(float("nan"), 8, higher=True)
    assert progress.judge(0.1, 9, higher=False)


@pytest.mark.long
def test_a_run_is_extended_and_nothing_else(
    shards_folder, train_config, tmp_path, metrics, capsys
):
    config = train_config.copy_and_resolve_references()
    config.train.steps = 8
    run(config, shards_folder, tmp_path)
    longer = train_config.copy_and_resolve_references()
    longer.train.steps = 12
    with pytest.raises(UserError, match="train.steps: 8 there, 12 here"):
        run(longer, shards_folder, tmp_path)
    for _ in range(2):  # the same command twice: the second finds it done
        run(config, shards_folder, tmp_path, extend_steps=12)
    assert [line["step"] for line in metrics(tmp_path)] == list(range(1, 13))
    assert workdir.read_config(str(tmp_path)).train.steps == 12
    with pytest.raises(UserError, match="only grow"):
        run(config, shards_folder, tmp_path, extend_steps=10)
    config.train.momentum = 0.5
    with pytest.raises(UserError, match="train.momentum"):
        run(config, shards_folder, tmp_path, extend_steps=16)
    # A constant rate's longer run is the one that was long from the start.
    run(longer, shards_folder, tmp_path / "whole")
    assert_same_weights(tmp_path, tmp_path / "whole", 12)


@pytest.mark.slow
def test_extending_on_other_data_changes_nothing(shards_folder, train_config, tmp_path):
    train_config.train.steps = 2
    run(train_config, shards_folder, tmp_path)
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    info["splits"]["train"]["num_tiles"] += 1  # as if the data were others
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    (tmp_path / "SHA256SUMS").unlink()  # the change is meant
    with pytest.raises(UserError, match="num_tiles"):
        run(train_config, shards_folder, tmp_path, extend_steps=4)
    assert workdir.read_config(str(tmp_path)).train.steps == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "precision",
    ["mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.long)],
)
def test_mixed_precision_trains_close_to_float32(
    shards_folder, train_config, tmp_path, precision, metrics
):
    train_config.train.steps, train_config.train.learning_rate = 5, 1e-3
    train_config.train.loss = "cross_entropy+dice"
    run(train_config, shards_folder, tmp_path / "float32")
    train_config.train.precision = precision
    run(train_config, shards_folder, tmp_path / precision)
    exact, mixed = metrics(tmp_path / "float32"), metrics(tmp_path / precision)
    for name, tolerance in (("loss", 0.1), ("gradient_norm", 0.2)):
        np.testing.assert_allclose(
            [line[name] for line in mixed],
            [line[name] for line in exact],
            rtol=tolerance,
        )


# --- The command in a process of its own, killed -------------------------------------


def training(shards_folder, folder, *more):
    settings = (
        "--config.train.steps=60",
        "--config.train.checkpoint_every_steps=7",
        "--config.train.validate_every_steps=30",
        "--config.model.dropout=0.3",
    )
    where = {"data": shards_folder, "workdir": folder}
    return module("train", *TINY, *settings, *more, **where)


def lines_in(folder) -> int:
    path = folder / "metrics.jsonl"
    return len(path.read_bytes().splitlines()) if path.exists() else 0


@pytest.mark.long
def test_kill_9_and_sigterm_change_nothing(shards_folder, tmp_path, series):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = process(*training(shards_folder, whole))
    assert done.returncode == 0, done.stderr
    command = training(shards_folder, killed)
    first = started(*command)
    until(first, lambda: lines_in(killed) >= 25)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    second = started(*command)
    until(second, lambda: lines_in(killed) >= 40)
    second.send_signal(signal.SIGTERM)
    said, _ = second.communicate(timeout=60)
    assert second.returncode == 0
    assert "SIGTERM signal: saved after step" in said.splitlines()[-1]
    stopped = int(said.split("saved after step ")[1].split(";")[0])
    assert stopped in checkpoints.complete_steps(str(killed / "checkpoints"))
    done = process(*command)
    assert done.returncode == 0 and f"going on after step {stopped}" in done.stdout
    assert series(killed) == series(whole)
    assert len(series(whole)) == 60
    assert_same_weights(whole, killed, 60)
    assert not list(killed.rglob(".unfinished*"))


@pytest.mark.slow
def test_ctrl_c_saves_and_exits_130(shards_folder, tmp_path):
    folder = tmp_path / "run"
    endless = started(*training(shards_folder, folder, "--config.train.steps=100000"))
    until(endless, lambda: lines_in(folder) >= 3)
    endless.send_signal(signal.SIGINT)
    _, said = endless.communicate(timeout=60)
    assert endless.returncode == 130 and "run it again to go on" in said
    newest = checkpoints.newest_whole(str(folder / "checkpoints"))
    assert newest is not None and newest.step >= lines_in(folder)
