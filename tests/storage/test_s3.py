"""s3:// on loopback: Beam's client of it, and TensorFlow's in the io environment."""

import os
import pathlib

import moto.settings
import pytest

from tests.cloud import environment
from tests.cloud import s3 as loopback
from tests.commands import ROOT, TINY, module, process, refused, run
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.storage import beam_filesystems, files

BUCKET = f"s3://{loopback.BUCKET}"
STEPS = ("--config.train.steps=2", "--config.train.validate_every_steps=1000")
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed <socket:ResourceWarning",
    "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning",
)


@pytest.fixture
def store(collected):
    with loopback.store() as found:
        yield found


@pytest.fixture
def here(store, monkeypatch):
    """This process, led to the bucket."""
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    forget()
    yield store
    forget()


def forget() -> None:
    beam_filesystems.CLIENTS.clear()
    beam_filesystems.check_bucket.cache_clear()


# --- Beam's client -------------------------------------------------------------------


@pytest.mark.slow
def test_files_live_there(here):
    with files.open_atomic(f"{BUCKET}/a/b.bin") as file:
        file.write(b"content")
    files.write_bytes(f"{BUCKET}/a/c/d.bin", b"more")
    assert here.names() == ["a/b.bin", "a/c/d.bin"]
    assert files.read_bytes(f"{BUCKET}/a/b.bin") == b"content"
    assert files.size_of(f"{BUCKET}/a/b.bin") == 7
    assert files.list_files(f"{BUCKET}/a") == [f"{BUCKET}/a/b.bin"]
    assert files.list_folders(f"{BUCKET}/a") == ["c"]
    assert not files.exists(f"{BUCKET}/a/none")
    files.remove([f"{BUCKET}/a/b.bin", f"{BUCKET}/a/none"])
    assert here.names() == ["a/c/d.bin"]


@pytest.mark.slow
def test_the_first_error_is_told(here):
    with pytest.raises(KeyError, match="the reason"):
        with files.open_atomic(f"{BUCKET}/never.bin"):
            raise KeyError("the reason")
    assert here.names() == []


@pytest.mark.parametrize(
    "name, value", [("AWS_ENDPOINT_URL", "127.0.0.1:1"), ("AWS_PROFILE", "nosuch")]
)
def test_settings_that_cannot_be_are_one_line(here, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as told:
        files.read_bytes(f"{BUCKET}/a")
    assert str(told.value).startswith(f"{BUCKET}: ") and "\n" not in str(told.value)


def test_all_calls_share_a_client_and_none_a_download(here, monkeypatch):
    import boto3

    made, make = [], boto3.session.Session.client
    monkeypatch.setattr(
        boto3.session.Session,
        "client",
        lambda *a, **named: made.append(1) or make(*a, **named),
    )
    contents = {name: os.urandom(100_000) for name in ("a", "b")}
    for name, content in contents.items():
        files.write_bytes(f"{BUCKET}/{name}", content)
    with files.open_read(f"{BUCKET}/a") as a, files.open_read(f"{BUCKET}/b") as b:
        first = a.read(10), b.read(10)
        assert (first[0] + a.read(), first[1] + b.read()) == (*contents.values(),)
    assert len(made) == 1


@pytest.mark.slow
def test_what_is_wrong_is_told_at_once(here, monkeypatch):
    calls = (files.exists, files.read_bytes, files.glob)
    for call in calls:
        with pytest.raises(UserError, match="s3://nowhere: no bucket s3://nowhere"):
            call("s3://nowhere/a")
    with pytest.raises(FileNotFoundError, match="s3://models/a: no such object"):
        files.read_bytes(f"{BUCKET}/a")
    with monkeypatch.context() as changed:
        changed.setattr(moto.settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)
        for call in calls:
            with pytest.raises(UserError, match="access to s3://models denied"):
                call(f"{BUCKET}/a")
    for name, value, words in (
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9", "no good answer"),
        ("AWS_ACCESS_KEY_ID", "", "not logged in, or expired: `aws configure`"),
    ):
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            forget()
            for call in calls:
                with pytest.raises(UserError, match=words):
                    call(f"{BUCKET}/a")


# --- TensorFlow of today, which has no client of it ----------------------------------


def test_without_a_client_training_says_what_to_do(
    here, shards_folder, tmp_path, capsys
):
    here.upload(pathlib.Path(shards_folder), "data")
    for data, folder, words in (
        (f"{BUCKET}/data", tmp_path / "run", "give --cache=DIR"),
        (shards_folder, f"{BUCKET}/run", "keep --workdir on a disk of this machine"),
    ):
        line = refused(capsys, "train", *TINY, data=data, workdir=folder)
        assert "can't reach s3://" in line
        assert words in line and "UNET_FLAVOUR=io ./launch.sh" in line


@pytest.mark.slow
def test_copies_of_shards_need_no_client(here, shards_folder, tmp_path):
    data = pathlib.Path(shards_folder)
    here.upload(data, "data")
    cache = tmp_path / "cache"
    where = {"data": f"{BUCKET}/data", "workdir": tmp_path / "run", "cache": cache}
    assert run("train", *TINY, *STEPS, **where) == 0
    copies = {path.read_bytes() for path in cache.iterdir()}
    assert {path.read_bytes() for path in data.glob("train*.tfrecord")} <= copies


@pytest.mark.slow
def test_a_run_and_a_model_in_a_bucket_need_no_client(here, trained, cells, tmp_path):
    here.upload(pathlib.Path(trained), "run")
    workdir, model = f"{BUCKET}/run", f"{BUCKET}/export"
    assert run("evaluate", workdir=workdir, input=cells) == 0
    assert "run/evaluation-test.json" in here.names()
    assert run("export", workdir=workdir, output=tmp_path / "export") == 0
    here.upload(tmp_path / "export", "export")
    seen = tmp_path / "seen"
    assert run("predict", model=model, input=cells / "01", output=seen) == 0
    assert len(list(seen.glob("*_mask.png"))) == 8


# --- TensorFlow 2.17 with tensorflow-io ----------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(1500)  # s; making the environment takes minutes
def test_the_road_with_tensorflow_io(
    store, cells, shards_folder, tmp_path, series, digests
):
    """Images and shards in the bucket; the same data, the same losses, exit codes."""
    python = environment.io_python()
    store.upload(cells, "raw")

    def run(name, *arguments, code=0, **flags):
        _, *command = module(name, *arguments, **flags)
        own = {**store.environment, "PYTHONPATH": str(ROOT)}
        done = process(python, *command, env=own, timeout=240)
        assert done.returncode == code, done.stderr
        return done.stderr

    run("preprocess", *TINY, input=f"{BUCKET}/raw", output=f"{BUCKET}/data")
    made = digests(store.fetch("data", tmp_path))
    there = digests(pathlib.Path(shards_folder))
    info = "dataset_info.json"  # has the versions in it
    assert made.pop(info) and there.pop(info)
    assert made == there
    for name, data in (("near", shards_folder), ("far", f"{BUCKET}/data")):
        run("train", *TINY, *STEPS, data=data, workdir=tmp_path / name)
    assert series(tmp_path / "far") == series(tmp_path / "near")
    hot = ("--config.train.learning_rate=1e38", "--config.train.schedule=constant")
    where = {"data": f"{BUCKET}/data", "workdir": tmp_path / "hot"}
    told = run("train", *TINY, *STEPS, *hot, code=2, **where)
    assert "train: the loss is" in told
