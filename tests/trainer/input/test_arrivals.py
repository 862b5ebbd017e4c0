"""Shards of a store arrive before they are read, and take no more room than given."""

import os
import pathlib
import shutil
import threading
import time

import pytest

from tests.cloud import stores as loopback
from tests.cloud.front import Fault
from tests.commands import TINY, module, process, refused, run
from trainer.devices.strategy import Cluster
from trainer.input.arrivals import AHEAD, Arrivals, room_for
from trainer.input.reading_order import ShardFile
from trainer.input.shard_files import Access, find_shards
from trainer.training.training_data import TrainingData
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset import dataset_info
from unet_tfrecords.dataset.dataset_info import Shard
from unet_tfrecords.storage import files, stores

SIZE = 1000  # bytes of a drawn shard


@pytest.fixture
def store(tmp_path, monkeypatch):
    with loopback.amazon(tmp_path) as found:
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        stores.forget()
        yield found
        stores.forget()


def shards_in(folder, number=20) -> list[ShardFile]:
    """Shards of any bytes."""
    found = []
    for index in range(number):
        path = folder / f"train-{index:05d}"
        path.write_bytes(os.urandom(SIZE))
        digest = files.sha256_of(str(path))
        entry = Shard(path.name, 1, SIZE, digest, (1, 1), "")
        found.append(ShardFile(str(path), 1, entry))
    return found


@pytest.fixture
def shards(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "is_remote", lambda path: "there" in path)
    monkeypatch.setattr(stores, "fetch", shutil.copyfile)
    (tmp_path / "there").mkdir()
    (tmp_path / "here").mkdir()
    return shards_in(tmp_path / "there")


def test_copies_are_the_shards_and_take_no_more_room(shards, tmp_path):
    arrivals = Arrivals(shards, str(tmp_path / "here"), 8 * SIZE)
    reader = arrivals.reader()
    groups = [shards[start : start + 2] for start in range(0, len(shards), 2)]
    for group in groups * 2:
        copies = reader.fetch([shard.path for shard in group])
        for shard, copy in zip(group, copies, strict=True):
            assert files.sha256_of(copy) == shard.entry.sha256
        assert len(os.listdir(tmp_path / "here")) <= 8


def test_what_has_room_is_fetched_once(shards, tmp_path, monkeypatch):
    fetched = []
    copy = files.copy
    monkeypatch.setattr(files, "copy", lambda *a: fetched.append(a[0]) or copy(*a))
    arrivals = Arrivals(shards, str(tmp_path / "here"), 100 * SIZE)
    paths = [shard.path for shard in shards]
    readers = [arrivals.reader() for _ in range(3)]
    threads = [threading.Thread(target=r.fetch, args=(paths,)) for r in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(fetched) == paths


def test_what_readers_hold_stays_even_without_room(shards, tmp_path):
    arrivals = Arrivals(shards, str(tmp_path / "here"), SIZE)
    slow, quick = arrivals.reader(), arrivals.reader()
    [held] = slow.fetch([shards[0].path])
    for shard in shards[1:]:
        quick.fetch([shard.path])
        assert os.path.exists(held)
    assert len(os.listdir(tmp_path / "here")) == 1 + AHEAD
    del slow
    quick.fetch([shards[1].path])
    assert not os.path.exists(held)


def test_the_next_one_arrives_while_one_is_read(shards, tmp_path):
    arrivals = Arrivals(shards, str(tmp_path / "here"), SIZE)
    turn = arrivals.in_turn([shard.path for shard in shards])
    next(turn)
    end = time.monotonic() + 30
    two = ["train-00000", "train-00001"]
    while sorted(os.listdir(tmp_path / "here")) != two:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert len(list(turn)) == len(shards) - 1


def test_copies_that_somebody_has_removed_are_fetched_again(shards, tmp_path):
    arrivals = Arrivals(shards, str(tmp_path / "here"), 100 * SIZE)
    [copy] = arrivals.reader().fetch([shards[0].path])
    os.remove(copy)
    assert arrivals.reader().fetch([shards[0].path]) == [copy]
    assert files.sha256_of(copy) == shards[0].entry.sha256


def test_room_is_found_before_anything_is_fetched(shards, tmp_path, monkeypatch):
    readers = [(shards, 4), (shards[:2], 1)]
    folder = str(tmp_path)
    assert room_for(readers, folder, 10**6) == 10**6
    assert room_for(readers, folder, 0) == (4 * AHEAD + 2) * SIZE
    with monkeypatch.context() as changed:
        usage = shutil_usage(free=10 * SIZE)
        changed.setattr("trainer.input.arrivals.shutil.disk_usage", usage)
        assert room_for(readers[1:], folder, 10**6) == 9 * SIZE
        with pytest.raises(UserError, match="TMPDIR name a larger disk"):
            room_for(readers, folder, 10**6)


def shutil_usage(free):
    import shutil

    return lambda folder: shutil._ntuple_diskusage(10 * free, 9 * free, free)


# --- Training ------------------------------------------------------------------------

STEPS = ("--config.train.steps=4", "--config.train.validate_every_steps=2")


@pytest.mark.slow
def test_a_stream_through_little_room_is_the_same(
    store, shards_folder, tmp_path, series, monkeypatch
):
    store.upload(pathlib.Path(shards_folder), "data")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert run("train", *TINY, *STEPS, data=shards_folder, workdir=tmp_path / "a") == 0
    where = {"data": f"{store.root}/data", "workdir": tmp_path / "b"}
    assert run("train", *TINY, *STEPS, stream_gb=1e-9, **where) == 0
    assert series(tmp_path / "a") == series(tmp_path / "b")
    assert not list(tmp_path.glob("unet-*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault, words",
    [
        (Fault(403), "access to s3://models denied"),
        (Fault(404), "no such object"),
        (None, "is not what preprocess wrote; run preprocess again"),
    ],
    ids=["denied", "gone", "changed"],
)
def test_a_shard_that_does_not_arrive_is_one_line(
    store, shards_folder, tmp_path, fault, words
):
    store.upload(pathlib.Path(shards_folder), "data")
    info = dataset_info.read_info(shards_folder)
    [*_, last] = find_shards(info, shards_folder, "train")
    name = last.entry.name
    if fault:
        store.harm(store.reads_of(name), *[fault] * 50)
    else:
        content = store.get(f"data/{name}")
        store.put(f"data/{name}", bytes(len(content)))
    where = {"data": f"{store.root}/data", "workdir": tmp_path / "run"}
    done = process(*module("train", *TINY, *STEPS, **where), env=store.environment)
    assert done.returncode == 2, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"train: {store.root}/data/{name}: ") and words in line
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_damage_in_a_store_is_left_out_as_on_a_disk(
    store, shards_folder, tmp_path, series
):
    data = tmp_path / "data"
    shutil.copytree(shards_folder, data)
    [*_, path] = sorted(data.glob("train-*.tfrecord"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    store.upload(data, "data")
    for folder, name in ((data, "a"), (f"{store.root}/data", "b")):
        where = {"data": folder, "workdir": tmp_path / name}
        assert run("train", *TINY, *STEPS, on_bad_record="skip", **where) == 0
    assert series(tmp_path / "a") == series(tmp_path / "b")


@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_room_must_be_a_size(shards_folder, tmp_path, capsys, value):
    where = {"data": shards_folder, "workdir": tmp_path / "run"}
    line = refused(capsys, "train", *TINY, stream_gb=value, **where)
    assert line == f"train: --stream_gb={float(value)}: a number of GB, from 0"


@pytest.mark.slow
def test_what_a_killed_training_had_fetched_goes(store, shards_folder, tmp_path):
    left = tmp_path / f"{files.TEMPORARY}train-killed"
    left.mkdir()
    (left / files.LOCK_NAME).touch()
    (left / "train-00000").write_bytes(bytes(1000))
    where = {"data": shards_folder, "workdir": tmp_path / "run"}
    command = module("train", *TINY, *STEPS, **where)
    process(*command, env={"TMPDIR": str(tmp_path)}).check_returncode()
    assert not left.exists()


@pytest.mark.long
def test_a_store_that_goes_away_ends_training_for_another_try(
    store, shards_folder, tmp_path
):
    store.upload(pathlib.Path(shards_folder), "data")
    store.harm(store.reads_of("train-"), *[Fault(503)] * 1000)
    where = {"data": f"{store.root}/data", "workdir": tmp_path / "run"}
    done = process(*module("train", *TINY, *STEPS, **where), env=store.environment)
    assert done.returncode == stores.TRY_LATER, done.stderr
    assert "no good answer after several tries (503)" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("worker", [0, 1])
def test_a_worker_has_its_own_shards_fetched_alone(
    store, shards_folder, config, tmp_path, worker
):
    store.upload(pathlib.Path(shards_folder), "data")
    info = dataset_info.read_info(shards_folder)
    config.train.global_batch = 2
    (tmp_path / "scratch").mkdir()
    given = (config, info, f"{store.root}/data", Cluster(worker, 2))
    data = TrainingData(*given, Access(scratch=str(tmp_path / "scratch")))
    assert len(data.lanes) == 2
    own = [shard.path for shard in (*data.lanes[worker], *data.validation_shards)]
    assert sorted(data.arrivals.shards) == sorted(own)
    cached = Access(cache=str(tmp_path / "cache"), scratch=str(tmp_path / "scratch"))
    assert TrainingData(*given, cached).arrivals is None
