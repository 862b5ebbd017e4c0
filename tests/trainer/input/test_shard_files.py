"""Damaged shards are named with their place, or left out and counted; copies."""

import pathlib
import shutil
import struct

import pytest
import tensorflow as tf

from tests.commands import mistakes
from tests.folders import flip
from tests.trainer.training.runs import ONE, run
from trainer.input import shard_files
from trainer.input.shard_files import Access, bring_near, find_shards
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.dataset_info import read_info
from unet_tfrecords.dataset.records import frame_record, read_records, scan_records

SECOND = "train-00001-of-00002.tfrecord"


@pytest.fixture
def data(shards_folder, tmp_path) -> pathlib.Path:
    """A copy to damage."""
    return pathlib.Path(shutil.copytree(shards_folder, tmp_path / "data"))


def offsets(path: pathlib.Path) -> list[int]:
    content, found, at = path.read_bytes(), [], 0
    while at < len(content):
        found.append(at)
        at += 16 + struct.unpack("<Q", content[at : at + 8])[0]
    return found


def with_bad_record(path: pathlib.Path, number: int) -> None:
    """A record with right checksums that is no tile."""
    with open(path, "rb") as file:
        records = list(read_records(file))
    records[number] = b"hello"
    path.write_bytes(b"".join(map(frame_record, records)))


DAMAGES = {
    # name: (what is done to the second shard, what is said, records left of 245)
    "body": (
        lambda p: flip(p, offsets(p)[100] + 50),
        "corrupted record at byte {}",
        244,
    ),
    "length": (lambda p: flip(p, offsets(p)[100]), "corrupted length at byte {}", 100),
    "cut": (
        lambda p: p.write_bytes(p.read_bytes()[: offsets(p)[100] + 50]),
        "truncated at byte {}",
        100,
    ),
    "content": (lambda p: with_bad_record(p, 100), "bad record at byte {}", 244),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_stops_with_shard_and_offset(data, train_config, tmp_path, kind):
    harm, said, _ = DAMAGES[kind]
    place = offsets(data / SECOND)[100]
    harm(data / SECOND)
    train_config.train.steps = 500  # the record comes somewhere in the first epoch
    train_config.train.update({"log_every_steps": 100, "checkpoint_every_steps": 500})
    train_config.train.validate_every_steps = 500
    [line] = mistakes(run, train_config, str(data), tmp_path / "run")
    assert line.startswith(f"{data / SECOND}: ") and said.format(place) in line
    assert "--on_bad_record=skip" in line


@pytest.mark.parametrize("kind", DAMAGES)
def test_skipping_leaves_out_counts_and_reports(data, tmp_path, capfd, kind):
    harm, said, left = DAMAGES[kind]
    place = offsets(data / SECOND)[100]
    harm(data / SECOND)
    info = read_info(str(data))
    shards = find_shards(info, str(data), "train", whole=False)
    access = Access("skip", scratch=str(tmp_path / "scratch"))
    near = bring_near(shards, info.geometry, access)
    told = capfd.readouterr().err
    assert f"skipped: {data / SECOND}: {said.format(place)}" in told
    assert f"{data / SECOND}: {245 - left} of 245 records" in told
    assert [shard.records for shard in near] == [245, left]
    assert near[0].path == shards[0].path
    kept = list(tf.data.TFRecordDataset(near[1].path))
    assert len(kept) == left


@pytest.mark.slow
def test_training_skips_what_is_damaged(data, train_config, tmp_path, capfd):
    DAMAGES["body"][0](data / SECOND)
    train_config.train.steps = 5
    run(train_config, str(data), tmp_path / "run", on_bad_record="skip")
    assert f"skipped: {data / SECOND}: " in capfd.readouterr().err


def test_a_shard_cut_between_records_is_noticed(data, train_config, tmp_path):
    """TensorFlow's reader would take it for the end."""
    path = data / SECOND
    path.write_bytes(path.read_bytes()[: offsets(path)[100]])
    with pytest.raises(UserError, match="100 records, not 245, at its end"):
        run(train_config, str(data), tmp_path / "run")


@pytest.mark.slow
def test_damage_of_a_validation_shard_is_named_too(data, train_config, tmp_path):
    [path] = data.glob("validation-*")
    place = offsets(path)[3]
    flip(path, place + 40)
    [line] = mistakes(run, train_config, str(data), tmp_path / "run")
    assert line.startswith(f"{path}: corrupted record at byte {place}; ")


@pytest.mark.slow
def test_a_dry_run_names_damage(data, train_config):
    from trainer.training.dry_run import dry_run
    from trainer.training.trainer import Trainer

    for path in data.glob("train-*"):
        for place in offsets(path):
            flip(path, place + 40)
    trainer = Trainer(train_config, str(data), ONE, Access())
    assert len(mistakes(dry_run, trainer)) == 490


def test_skipping_everything_is_refused(data, train_config, tmp_path, capfd):
    flip(data / SECOND, 3)
    train_config.train.global_batch = 2  # a lane for each of the two shards
    with pytest.raises(UserError, match="no whole record is left in a lane"):
        run(train_config, str(data), tmp_path / "run", on_bad_record="skip")


@pytest.mark.long
def test_other_damage_than_before_is_said(data, train_config, tmp_path, capfd):
    given = train_config, str(data), tmp_path / "run"
    train_config.train.steps = 4
    run(*given, on_bad_record="skip")
    flip(data / SECOND, offsets(data / SECOND)[7] + 40)
    capfd.readouterr()
    run(*given, on_bad_record="skip", extend_steps=6)
    assert "other records are skipped than before" in capfd.readouterr().err


def test_missing_shards_are_all_named(data, train_config, tmp_path):
    for path in data.glob("train-*"):
        path.unlink()
    _, second = mistakes(run, train_config, str(data), tmp_path / "run")
    assert f"{SECOND}: missing" in second
    (data / "dataset_info.json").unlink()
    with pytest.raises(UserError, match="dataset_info.json: missing"):
        run(train_config, str(data), tmp_path / "run")


@pytest.mark.long
def test_cached_shards_give_the_same_losses(
    data, train_config, tmp_path, metrics, monkeypatch
):
    monkeypatch.setattr(shard_files, "MEMORY_FOLDER", str(tmp_path))
    train_config.train.steps = 8

    def losses(name, **options):
        run(train_config, str(data), tmp_path / name, **options)
        return [line["loss"] for line in metrics(tmp_path / name)]

    plain = losses("plain")
    originals = {path: path.read_bytes() for path in data.glob("train-*")}
    for cache, where in (
        (str(tmp_path / "cache"), "cache/*.tfrecord"),
        ("memory", "unet*/*"),
    ):
        name = pathlib.Path(cache).name
        assert losses(f"{name} made", cache=cache) == plain
        copies = list(tmp_path.glob(where))
        assert len(copies) == 3  # the validation split's too
        before = [path.stat().st_mtime_ns for path in copies]
        # From the copies alone, and not copied again.
        for path in originals:
            flip(path, 100)
        assert losses(f"{name} alone", cache=cache) == plain
        assert [path.stat().st_mtime_ns for path in copies] == before
        # A damaged copy is made again.
        for path, content in originals.items():
            path.write_bytes(content)
        flip(copies[0], 100)
        assert losses(f"{name} mended", cache=cache) == plain


def test_a_cache_takes_no_damaged_shard_and_no_remote_folder(data, tmp_path):
    info = read_info(str(data))
    shards = find_shards(info, str(data), "train")
    flip(data / SECOND, 1000)
    with pytest.raises(UserError, match="is not what preprocess wrote"):
        bring_near(shards, info.geometry, Access(cache=str(tmp_path / "c")))
    assert not list((tmp_path / "c").glob(".unfinished*"))
    with pytest.raises(UserError, match="a folder of this machine"):
        bring_near(shards, info.geometry, Access(cache="gs://bucket/c"))


def test_a_full_cache_is_refused_with_both_sizes(data, tmp_path, monkeypatch):
    info = read_info(str(data))
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="0.0 GB free, the shards need"):
        bring_near(
            find_shards(info, str(data), "train"),
            info.geometry,
            Access(cache=str(tmp_path / "c")),
        )


@pytest.mark.slow
def test_skip_and_cache_together(data, train_config, tmp_path, capfd):
    flip(data / SECOND, offsets(data / SECOND)[7] + 40)
    train_config.train.steps = 4
    options = {"on_bad_record": "skip", "cache": str(tmp_path / "cache")}
    run(train_config, str(data), tmp_path / "run", **options)
    assert "1 of 245 records" in capfd.readouterr().err
    # The whole one, and that of the validation split.
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_scanning_finds_every_damaged_record(data):
    path = data / SECOND
    places = offsets(path)
    for number in (3, 4, 200):
        flip(path, places[number] + 30)
    with open(path, "rb") as file:
        bad = [place.offset for place in scan_records(file) if place.record is None]
    assert bad == [places[number] for number in (3, 4, 200)]
