"""New versions appear whole, each under its own number, on a disk and in a bucket."""

import json
import multiprocessing
import os
import pathlib
import re
import threading
import urllib.parse

import pytest

from tests.cloud import stores as loopback
from tests.commands import refused, run
from tests.folders import tree
from trainer.export import publish
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.storage import stores


@pytest.fixture
def store(request, tmp_path, monkeypatch):
    """An empty bucket of the store that a test names; gs:// where it names none."""
    (tmp_path / "server").mkdir()
    opener = loopback.OPENERS[getattr(request, "param", "gs")]
    with opener(tmp_path / "server") as found:
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        stores.forget()
        yield found
        stores.forget()


each = pytest.mark.parametrize("store", ["gs", "s3", "az"], indirect=True)


def make_model(folder, mark=b"model", parts=3, part=b"") -> None:
    """Files laid out like a SavedModel's."""
    content = {f"variables/part-{i}": os.urandom(1000 + i) for i in range(parts)}
    content["variables/part-1"] += part
    content |= {"saved_model.pb": mark, "assets.extra/model.json": b"{}"}
    for name, value in content.items():
        path = pathlib.Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(value)


def publish_once(destination, mark=b"model", **named) -> str:
    with publish.staging(destination) as stage:
        make_model(stage, mark, **named)
        return publish.publish(stage, destination)


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


@each
def test_the_graph_comes_last(store):
    destination = f"{store.root}/models/unet"
    assert publish_once(destination) == f"{destination}/1"
    seen = [(r.method, urllib.parse.unquote(r.path)) for r in store.seen]
    graph = [i for i, (_, path) in enumerate(seen) if "unet/1/saved_model.pb" in path]
    others = [i for i, (_, path) in enumerate(seen) if re.search("unet/1/[av]", path)]
    # All that came before was sent, and read again, before the graph was sent.
    assert max(others) < min(graph)
    assert store.names("models/unet/1/")[-1] == "models/unet/1/variables/part-2"
    assert len(store.names("models/unet/1/")) == 5
    assert store.names("models/unet/.claims/") == ["models/unet/.claims/1"]


@each
def test_what_lies_in_the_bucket_is_what_was_built(store):
    with publish.staging(store.root) as stage:
        make_model(stage)
        built = tree(pathlib.Path(stage))
        publish.publish(stage, store.root)
    assert not os.path.exists(stage)
    names = store.names("1/")
    assert {name.removeprefix("1/"): store.get(name) for name in names} == built


@each
def test_two_publishers_at_once_get_two_versions(store):
    """Both list an empty bucket before either has claimed a number."""
    destination = f"{store.root}/unet"
    both = threading.Barrier(2)
    versions_in = publish.versions_in

    def versions_when_both_are_there(*arguments):
        found = versions_in(*arguments)
        both.wait(30)
        return found

    results = []

    def one(mark):
        results.append((mark, publish_once(destination, mark)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish, "versions_in", versions_when_both_are_there)
        threads = [threading.Thread(target=one, args=(mark,)) for mark in (b"a", b"b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(version for _, version in results) == [
        f"{destination}/1",
        f"{destination}/2",
    ]
    assert {r.status for r in store.seen} & {409, 412}  # the store did refuse one
    for mark, version in results:
        name = version.removeprefix(f"{store.root}/") + "/saved_model.pb"
        assert store.get(name) == mark


def test_damage_on_the_way_is_noticed_and_nothing_stays(store):
    def tamper(path, body):
        return body.replace(b"PART-1", b"part-?")

    store.tamper = tamper
    with pytest.raises(UserError, match="part-1: is not what was uploaded"):
        publish_once(f"{store.root}/unet", part=b"PART-1")
    assert store.names("unet/1/") == []
    store.tamper = lambda path, body: body
    assert publish_once(f"{store.root}/unet").endswith("/2")


@each
def test_a_bucket_that_is_not_there_is_one_line(store, trained, capfd):
    nowhere = f"{store.root[:5]}no-such-bucket"
    assert run("export", workdir=trained, publish=f"{nowhere}/unet") == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith(f"export: {nowhere}/unet") and f"no bucket {nowhere}" in line


@pytest.mark.slow
def test_export_publishes_to_a_bucket_and_keeps_a_copy(store, trained, tmp_path, capfd):
    where = {"output": tmp_path / "m", "publish": f"{store.root}/unet"}
    assert run("export", workdir=trained, **where) == 0
    printed = capfd.readouterr().out.splitlines()
    assert printed == [
        f"{tmp_path}/m/1/saved_model.pb",
        f"{store.root}/unet/1/saved_model.pb",
    ]
    names = {name.removeprefix("unet/1/") for name in store.names("unet/1/")}
    assert names == tree(tmp_path / "m/1").keys()
    about = store.get("unet/1/assets.extra/model.json")
    assert json.loads(about)["depth"] == 2


@pytest.mark.parametrize("name", ["gs://", "gs:///unet", "gs:/models/x"])
def test_what_is_nearly_a_bucket_is_no_folder_of_this_machine(name, capfd):
    line = refused(capfd, "export", workdir="run", publish=name)
    assert line == f"export: --publish={name}: write gs://BUCKET/FOLDER"


@each
def test_a_failed_publisher_removes_nothing_of_others(store):
    claim = publish.claim

    def claim_then_another_writes(*arguments):
        number = claim(*arguments)
        store.put("unet/1/saved_model.pb", b"another's")
        return number

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish, "claim", claim_then_another_writes)
        with pytest.raises(UserError, match="saved_model.pb: is not what was uploaded"):
            publish_once(f"{store.root}/unet")
    assert store.names("unet/1/") == ["unet/1/saved_model.pb"]
    assert store.get("unet/1/saved_model.pb") == b"another's"


def test_stages_of_killed_exports_go_after_a_day(tmp_path):
    for name, age in (("old", 2 * 24 * 3600), ("new", 60)):
        folder = tmp_path / f"m/.unfinished-{name}"
        folder.mkdir(parents=True)
        then = folder.stat().st_mtime - age
        os.utime(folder, (then, then))
    publish_once(str(tmp_path / "m"))
    assert sorted(os.listdir(tmp_path / "m")) == [".unfinished-new", "1"]


def test_the_web_is_refused(store, trained, capfd):
    assert run("export", workdir=trained, publish="http://127.0.0.1:9/unet") == 2
    assert "web servers are read only" in capfd.readouterr().err


def test_a_destination_must_be_given(trained, capfd):
    assert run("export", workdir=trained) == 2
    assert "--output or --publish" in capfd.readouterr().err
