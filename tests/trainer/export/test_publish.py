"""New versions appear whole, each under its own number, on a disk and in a bucket."""

import json
import multiprocessing
import os
import pathlib
import threading

import pytest
from google.cloud import storage

from tests.cloud import gcs
from tests.commands import refused, run
from tests.folders import tree
from trainer.export import publish
from unet_tfrecords.command.errors import UserError


@pytest.fixture
def front(front, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", front.address)
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "test")
    return front


def make_model(folder, mark=b"model", parts=3) -> None:
    """Files laid out like a SavedModel's."""
    content = {f"variables/part-{i}": os.urandom(1000 + i) for i in range(parts)}
    content |= {"saved_model.pb": mark, "assets.extra/model.json": b"{}"}
    for name, value in content.items():
        path = pathlib.Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(value)


def publish_once(destination, mark=b"model") -> str:
    with publish.staging(destination) as stage:
        make_model(stage, mark)
        return publish.publish(stage, destination)


def names_in_bucket(prefix="") -> list[str]:
    blobs = storage.Client().list_blobs(gcs.BUCKET, prefix=prefix)
    return sorted(blob.name for blob in blobs)


def test_versions_count_on(tmp_path):
    (tmp_path / "m/7").mkdir(parents=True)
    (tmp_path / "m/notes").mkdir()
    destination = str(tmp_path / "m")
    assert publish_once(destination).endswith("m/8")
    assert publish_once(destination).endswith("m/9")
    assert sorted(os.listdir(destination)) == ["7", "8", "9", "notes"]


def _publish_many(destination, mark, number):
    for _ in range(number):
        publish_once(destination, mark)


@pytest.mark.slow
def test_publishers_at_once_on_one_disk_get_numbers_of_their_own(tmp_path):
    destination = str(tmp_path / "m")
    os.mkdir(destination)
    fork = multiprocessing.get_context("spawn")
    processes = [
        fork.Process(target=_publish_many, args=(destination, mark, 15))
        for mark in (b"a", b"b", b"c")
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sorted(map(int, os.listdir(destination))) == list(range(1, 46))
    marks = [
        (tmp_path / f"m/{number}/saved_model.pb").read_bytes()
        for number in range(1, 46)
    ]
    assert sorted(marks) == [b"a"] * 15 + [b"b"] * 15 + [b"c"] * 15


def test_what_fails_while_it_is_built_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError):
        with publish.staging(str(tmp_path / "m")) as stage:
            make_model(stage)
            raise RuntimeError
    assert os.listdir(tmp_path / "m") == []


def test_the_graph_comes_last(front):
    destination = f"gs://{gcs.BUCKET}/models/unet"
    assert publish_once(destination) == f"{destination}/1"
    uploaded = [r.path for r in front.seen if r.method in ("POST", "PUT")]
    inside = [path for path in uploaded if "models/unet/1/" in path]
    assert inside[-1] == "models/unet/1/saved_model.pb" and len(inside) == 5
    assert uploaded[0] == "models/unet/.claims/1"
    # All that came before was compared before the graph was sent.
    last = max(i for i, r in enumerate(front.seen) if r.path.endswith("saved_model.pb"))
    assert [r for r in front.seen[:last] if r.method == "GET"][-1].path.startswith(
        f"/storage/v1/b/{gcs.BUCKET}/o?"
    )


def test_what_lies_in_the_bucket_is_what_was_built(front):
    destination = f"gs://{gcs.BUCKET}"
    with publish.staging(destination) as stage:
        make_model(stage)
        built = tree(pathlib.Path(stage))
        publish.publish(stage, destination)
    assert not os.path.exists(stage)
    names = names_in_bucket("1/")
    assert {name.removeprefix("1/"): front.get(name) for name in names} == built


def test_two_publishers_at_once_get_two_versions(front):
    """Both list an empty bucket before either has claimed a number."""
    destination = f"gs://{gcs.BUCKET}/unet"
    both = threading.Barrier(2)
    names_in = publish.names_in

    def names_when_both_are_there(*arguments):
        found = names_in(*arguments)
        if arguments[1].endswith(".claims/"):
            both.wait(30)
        return found

    results = []

    def one(mark):
        results.append((mark, publish_once(destination, mark)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish, "names_in", names_when_both_are_there)
        threads = [threading.Thread(target=one, args=(mark,)) for mark in (b"a", b"b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(version for _, version in results) == [
        f"{destination}/1",
        f"{destination}/2",
    ]
    assert any(r.status == 412 for r in front.seen)  # the front did refuse one
    for mark, version in results:
        name = version.removeprefix(f"gs://{gcs.BUCKET}/") + "/saved_model.pb"
        assert front.get(name) == mark


def test_damage_on_the_way_is_noticed_and_nothing_stays(front):
    def tamper(name, body):
        return body[:-60] + b"x" * 20 + body[-40:] if "part-1" in name else body

    front.tamper = tamper
    with pytest.raises(UserError, match="not published"):
        publish_once(f"gs://{gcs.BUCKET}/unet")
    assert names_in_bucket("unet/1/") == []
    front.tamper = lambda name, body: body
    assert publish_once(f"gs://{gcs.BUCKET}/unet").endswith("/2")


def test_what_arrived_otherwise_is_noticed_and_nothing_stays(front):
    """A checksum in the bucket that is not the file's."""

    def retell(path, content):
        if "prefix=unet%2F1%2F" not in path or "delimiter" in path:
            return content
        listing = json.loads(content)
        for item in listing.get("items", []):
            if item["name"].endswith("part-1"):
                item["crc32c"] = "AAAAAA=="
        return json.dumps(listing).encode()

    front.retell = retell
    with pytest.raises(UserError, match="part-1: is not what was uploaded"):
        publish_once(f"gs://{gcs.BUCKET}/unet")
    front.retell = lambda path, content: content
    assert names_in_bucket("unet/1/") == []
    assert not any(r.path.endswith("saved_model.pb") for r in front.seen)


def test_a_bucket_that_is_not_there_is_one_line(front, trained, capfd):
    assert run("export", workdir=trained, publish="gs://no-such-bucket/unet") == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("export: gs://no-such-bucket/unet: not published")


@pytest.mark.slow
def test_export_publishes_to_a_bucket_and_keeps_a_copy(front, trained, tmp_path, capfd):
    where = {"output": tmp_path / "m", "publish": f"gs://{gcs.BUCKET}/unet"}
    assert run("export", workdir=trained, **where) == 0
    printed = capfd.readouterr().out.splitlines()
    assert printed == [
        f"{tmp_path}/m/1/saved_model.pb",
        f"gs://{gcs.BUCKET}/unet/1/saved_model.pb",
    ]
    names = {name.removeprefix("unet/1/") for name in names_in_bucket("unet/1/")}
    assert names == tree(tmp_path / "m/1").keys()
    about = front.get("unet/1/assets.extra/model.json")
    assert json.loads(about)["depth"] == 2


@pytest.mark.parametrize("name", ["gs://MODELS_/x"])
def test_what_is_no_bucket_is_one_line(name, trained, capfd):
    line = refused(capfd, "export", workdir=trained, publish=name)
    assert line.startswith(f"export: {name}: gs://BUCKET/PREFIX is needed")


@pytest.mark.parametrize("name", ["gs://", "gs:///unet", "gs:/models/x"])
def test_what_is_nearly_a_bucket_is_no_folder_of_this_machine(name, capfd):
    line = refused(capfd, "export", workdir="run", publish=name)
    assert line == f"export: --publish={name}: write gs://BUCKET/FOLDER"


def test_a_failed_publisher_removes_nothing_of_others(front):
    claim = publish.claim

    def claim_then_another_writes(*arguments):
        number = claim(*arguments)
        front.put("unet/1/saved_model.pb", b"another's")
        return number

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish, "claim", claim_then_another_writes)
        with pytest.raises(UserError, match="saved_model.pb: is not what was uploaded"):
            publish_once(f"gs://{gcs.BUCKET}/unet")
    assert names_in_bucket("unet/1/") == ["unet/1/saved_model.pb"]


def test_stages_of_killed_exports_go_after_a_day(tmp_path):
    for name, age in (("old", 2 * 24 * 3600), ("new", 60)):
        folder = tmp_path / f"m/.unfinished-{name}"
        folder.mkdir(parents=True)
        then = folder.stat().st_mtime - age
        os.utime(folder, (then, then))
    publish_once(str(tmp_path / "m"))
    assert sorted(os.listdir(tmp_path / "m")) == [".unfinished-new", "1"]


def test_other_stores_are_refused(trained, capfd):
    assert run("export", workdir=trained, publish="s3://bucket/unet") == 2
    assert "gs:// or a folder" in capfd.readouterr().err


def test_a_destination_must_be_given(trained, capfd):
    assert run("export", workdir=trained) == 2
    assert "--output or --publish" in capfd.readouterr().err
