"""Replicas and workers give one device's losses; what each says of itself."""

import contextlib
import json
import pathlib
import signal
import socket
import threading

import numpy as np
import pytest
import tensorflow as tf

from tests.commands import TINY, module, process, started
from tests.conftest import until
from tests.ports import cluster_of, free_port
from tests.trainer.training.runs import ONE
from trainer.devices import gpus, rendezvous, strategy
from trainer.network.unet import build_model
from trainer.run import checkpoints
from trainer.run.restore import restore_network
from trainer.training.session import train
from unet_tfrecords.command.errors import UserError


def mirrored():
    devices = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    assert devices.num_replicas_in_sync == 2
    return devices


EVERYTHING = {
    "optimizer": "sgd",
    "learning_rate": 1e-3,
    "ema": 0.9,
    "clip_norm": 0.5,
    "weight_decay": 0.01,
    "accumulate": 2,
}


def assert_same(one: list[dict], two: list[dict], tolerance: float, later: float):
    """Closer in the first ten steps than later: rounding grows.

    A ReLU or a pooling whose inputs differ by rounding alone sends its gradient
    elsewhere: the norm of one step in 20 was off by 1.3e-5, on AVX2.
    """
    assert len(one) == len(two) == 20
    assert one[-1]["loss"] != one[0]["loss"]
    for name in ("loss", "gradient_norm"):
        found, expected = ([line[name] for line in each] for each in (two, one))
        np.testing.assert_allclose(found[:10], expected[:10], rtol=tolerance)
        np.testing.assert_allclose(found, expected, rtol=later)
    for name in ("val_mean_iou", "val_cross_entropy"):
        assert two[-1][name] == pytest.approx(one[-1][name], rel=1e-4)


@pytest.mark.slow
def test_two_replicas_give_one_devices_losses(
    shards_folder, train_config, tmp_path, metrics
):
    """With dropout, clipping, decay, an average, parts: all of them agree too."""
    config = train_config
    config.train.update(EVERYTHING)
    config.model.dropout = 0.5
    config.train.augment.flip = True
    found = {}
    for name, devices in (("one", ONE), ("two", mirrored())):
        train(config, shards_folder, str(tmp_path / name), devices)
        found[name] = metrics(tmp_path / name)
    assert_same(found["one"], found["two"], 1e-6, later=1e-4)


@pytest.mark.long
def test_two_replicas_give_one_devices_losses_with_adam(
    shards_folder, train_config, tmp_path, metrics
):
    """Without standardised kernels: their gradients are differences of large sums.

    Adam gives their smallest elements full steps: with both, a change of 1e-7 in the
    gradients of one device moves its losses by 2e-4 within these 20 steps. Processes of
    their own, for TensorFlow reduces one number of weights only in a process.
    """
    train_config.train.update({**EVERYTHING, "optimizer": "adamw"})
    flags = [
        f"--config.train.{name}={value}"
        for name, value in train_config.train.items()
        if isinstance(value, (int, float, str)) and value != ""
    ]
    flags += ["--config.model.standardized_kernels=False", "--config.model.dropout=0.5"]
    flags += ["--config.train.augment.flip=True", "--config.seed=2"]
    for devices in ("1", "2"):
        where = {"data": shards_folder, "workdir": tmp_path / devices}
        command = module("train", *TINY, *flags, **where, devices=devices)
        process(*command, check=True, timeout=200)
    assert_same(metrics(tmp_path / "1"), metrics(tmp_path / "2"), 1e-6, later=1e-6)


@pytest.mark.long
def test_compiled_replicas_too(shards_folder, train_config, tmp_path, metrics):
    losses = {}
    train_config.train.update({"steps": 6, "xla": "on"})
    train_config.model.dropout = 0.5
    for name, devices in (("one", ONE), ("two", mirrored())):
        train(train_config, shards_folder, str(tmp_path / name), devices)
        losses[name] = [line["loss"] for line in metrics(tmp_path / name)]
    np.testing.assert_allclose(losses["two"], losses["one"], rtol=1e-5)


@pytest.mark.slow
def test_overflow_on_one_replica_leaves_all_weights(
    shards_folder, train_config, tmp_path, monkeypatch
):
    """Half precision: an infinite gradient of one replica must stop the update of all.

    Keras' own loss scaling looks at each replica's gradients before they are summed.
    """
    from trainer.training import step

    config = train_config
    config.train.update({"precision": "mixed_float16", "steps": 1})
    real = step.TrainingSteps.gradients_of

    def overflowing(self, batch, first_seed):
        [pack] = real(self, batch, first_seed)
        second = tf.equal(first_seed % step.MOST_TILES, 2)  # the second replica's
        huge = tf.where(second, np.inf, 0.0)
        return [tf.concat([pack[:1] + huge, pack[1:]], 0)]

    monkeypatch.setattr(step.TrainingSteps, "gradients_of", overflowing)
    train(config, shards_folder, str(tmp_path), mirrored())
    start = build_model(config.model, seed=config.seed).get_weights()
    end = restore_network(str(tmp_path), config)[0].get_weights()
    for before, after in zip(start, end, strict=True):
        np.testing.assert_array_equal(before, after)


def start_workers(number, shards_folder, folder, *more):
    """The command in so many processes of a cluster on loopback."""
    command = training(shards_folder, folder, *more)
    return [started(*command, env=worker) for worker in cluster_of(number)]


def training(shards_folder, folder, *more):
    settings = (
        "--config.train.global_batch=6",
        "--config.train.steps=20",
        "--config.train.checkpoint_every_steps=8",
        "--config.train.validate_every_steps=10",
        "--config.train.clip_norm=1.0",
        "--config.model.dropout=0.3",
    )
    where = {"data": shards_folder, "workdir": folder}
    return module("train", *TINY, *settings, *more, **where)


def communicated(workers, codes) -> list[tuple[str, str]]:
    """What all of them said on stdout and stderr, once they have ended with these."""
    said = [worker.communicate(timeout=200) for worker in workers]
    assert [worker.returncode for worker in workers] == codes, said
    return said


@pytest.fixture(scope="module")
def one(shards_folder, tmp_path_factory) -> pathlib.Path:
    """The work directory of one process on one device."""
    folder = tmp_path_factory.mktemp("one") / "run"
    done = process(*training(shards_folder, folder))
    assert done.returncode == 0, done.stderr
    assert "1 CPU replica," in done.stdout
    assert "6 tiles a step, 6 on each replica" in done.stdout
    return folder


@pytest.mark.long
def test_two_processes_and_split_device_give_one_devices_losses(
    shards_folder, one, tmp_path, metrics
):
    """TF_CONFIG on loopback, --devices=2, and neither: the same loss series.

    The workers stop at a SIGTERM to the one that is not the chief, and go on.
    """
    done = process(*training(shards_folder, tmp_path / "split", "--devices=2"))
    assert done.returncode == 0, done.stderr
    assert "2 CPU replicas," in done.stdout
    assert "6 tiles a step, 3 on each replica" in done.stdout
    workers = start_workers(2, shards_folder, tmp_path / "workers")
    lines = tmp_path / "workers/metrics.jsonl"
    until(workers[0], lambda: lines.exists() and len(lines.read_bytes()) > 300)
    workers[1].send_signal(signal.SIGTERM)
    said = communicated(workers, [0, 0])
    assert "another's signal: saved after step" in said[0][0]
    assert "SIGTERM signal: saved after step" in said[1][0]
    workers = start_workers(2, shards_folder, tmp_path / "workers")
    said = communicated(workers, [0, 0])
    assert "worker 0 of 2 (the chief)" in said[0][0]
    assert "going on after step" in said[0][0]
    for stdout, _ in said:
        assert "data sharded by file: this worker reads 1 of 2 shards" in stdout
    assert "validation mean_iou" in said[0][1]
    assert "validation" not in said[1][1]  # only the chief talks
    alone = metrics(one)
    for name in ("split", "workers"):
        other = metrics(tmp_path / name)
        assert [line["step"] for line in other] == [line["step"] for line in alone]
        apart = {
            key: [abs(o[key] / a[key] - 1) for o, a in zip(other, alone, strict=True)]
            for key in ("loss", "gradient_norm")
        }
        assert max(apart["loss"]) < 1e-5, name
        # A gradient jumps where a ReLU is at its edge: on one processor single steps'
        # norms were 2e-3 apart, where no loss was more than 2e-6.
        assert np.median(apart["gradient_norm"]) < 1e-5, name
        # Not an IoU: of pixels at the threshold a few change sides.
        last = other[-1]["val_cross_entropy"], alone[-1]["val_cross_entropy"]
        assert last[0] == pytest.approx(last[1], rel=1e-4)
    steps = checkpoints.complete_steps(str(tmp_path / "workers/checkpoints"))
    assert steps[-1] == 20


@pytest.mark.long
def test_one_of_three_killed_and_all_started_again(
    shards_folder, one, tmp_path, metrics
):
    """Like one worker that nothing has happened to; the others end, and say why."""
    more = ("--stopped_exit_code=75",)
    workers = start_workers(3, shards_folder, tmp_path / "three", *more)
    saved = str(tmp_path / "three/checkpoints")
    until(workers[0], lambda: checkpoints.complete_steps(saved))
    workers[1].kill()
    said = communicated(workers, [75, -signal.SIGKILL, 75])
    for index in (0, 2):
        last = said[index][1].splitlines()[-1]
        assert f"worker {index} of 3: another worker has ended" in last
    workers = start_workers(3, shards_folder, tmp_path / "three", *more)
    said = communicated(workers, [0, 0, 0])
    assert "going on after step" in said[0][0]
    alone, three = metrics(one), metrics(tmp_path / "three")
    assert [line["step"] for line in three] == [line["step"] for line in alone]
    np.testing.assert_allclose(
        [line["loss"] for line in three], [line["loss"] for line in alone], rtol=1e-5
    )


@pytest.mark.slow
def test_a_worker_that_never_comes(shards_folder, tmp_path):
    """The others give up by themselves, or when told, and name who is missing."""
    [late, told] = [
        start_workers(2, shards_folder, tmp_path / name, "--wait_minutes=0.2")
        for name in ("late", "told")
    ]
    for workers in (late, told):
        workers[1].kill()
        workers[1].communicate()
    line = iter(told[0].stdout.readline, "")
    assert any("waiting for the others" in said for said in line)
    told[0].send_signal(signal.SIGTERM)
    told[0].communicate(timeout=5)
    assert told[0].returncode == 143
    _, said = late[0].communicate(timeout=60)
    assert late[0].returncode == 75, said
    assert "0 of 2: waited 0.2 minutes; not there: worker 1 (127.0.0.1:" in said


@pytest.mark.slow
def test_meeting(tmp_path):
    """Strangers, one who comes back, one who comes late; and a chief who doesn't."""
    hosts = [f"127.0.0.1:{free_port()}" for _ in range(3)]
    ended: dict[int, str] = {}

    def come(worker, minutes):
        try:
            rendezvous.meet(hosts, worker, minutes)
            ended[worker] = "met"
        except UserError as error:
            ended[worker] = str(error)

    def all_come(workers, minutes, between=lambda: None):
        threads = [threading.Thread(target=come, args=(w, minutes)) for w in workers]
        for thread in threads[:-1]:
            thread.start()
            between()
        threads[-1].start()
        for thread in threads:
            thread.join(20)

    def stranger():
        for said in (b"GET / HTTP/1.1\r\n\r\n", b"", rendezvous.HELLO % (2, 3)):
            with contextlib.suppress(OSError):
                with socket.create_connection(("127.0.0.1", int(hosts[0][10:]))) as one:
                    one.sendall(said)
        assert not ended

    all_come([1, 0, 2], 1, stranger)
    assert ended == {0: "met", 1: "met", 2: "met"}
    ended.clear()
    all_come([0, 2], 0.05)
    for worker in (0, 2):
        assert (
            f"{worker} of 3: waited 0.05 minutes; not there: worker 1 ("
            in ended[worker]
        )
    ended.clear()
    all_come([2], 0.01)
    assert "not there: worker 0 (" in ended[2]


# --- What a cluster is ---------------------------------------------------------------


def config_of(task, **cluster):
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}


def test_clusters_of_vertex_kubernetes_and_slurm():
    workers = {"worker": ["a:1", "b:1"]}
    read = strategy.read_cluster
    assert read({}) == read({"TF_CONFIG": ""}) == (0, 1)
    assert read(config_of({"type": "worker", "index": 1}, **workers)) == (1, 2)
    chief = {"chief": ["c:1"], **workers}
    assert read(config_of({"type": "chief", "index": 0}, **chief)) == (0, 3)
    assert read(config_of({"type": "worker", "index": "1"}, **chief)) == (2, 3)
    assert read(config_of({"type": "chief", "index": 0}, chief=["c:1"])) == (0, 1)
    assert read({"TF_CONFIG": '{"cluster": {}, "task": {}}'}) == (0, 1)
    hosts = '{"cluster": {"worker": %s}, "task": {"index": 0}}'
    wrong = [hosts % text for text in ('["a", "b"]', '["a:1", "b:99999"]', "[1, 2]")]
    wrong += [
        hosts % f'["a:1", "{odd}"]' for odd in ("b:1/x", "b:1?q", "b:1#f", "b\\n:1")
    ]
    for broken in ("{", "[]", '{"cluster": 3, "task": {"index": "x"}}', *wrong):
        with pytest.raises(UserError, match="TF_CONFIG cannot be read"):
            read({"TF_CONFIG": broken})
    with pytest.raises(UserError, match="task evaluator 0"):
        read(config_of({"type": "evaluator", "index": 0}, **chief))


def test_precision_by_capability():
    assert strategy.resolve_precision("auto") == "float32"  # no GPU in tests
    assert strategy.resolve_precision("mixed_float16") == "mixed_float16"
    assert gpus.precision_for([(8, 0), (9, 0)]) == "mixed_bfloat16"
    assert gpus.precision_for([(7, 0)]) == "mixed_float16"
    assert gpus.precision_for([(6, 1), (8, 0)]) == "float32"
    assert strategy.resolve_xla("auto") and not strategy.resolve_xla("off")
