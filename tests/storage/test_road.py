"""The whole road, images to predictions, in each store: the same bytes and losses."""

import pathlib

import pytest

from tests.cloud import stores as loopback
from tests.cloud.front import Fault
from tests.commands import TINY, module, process
from unet_tfrecords.dataset import verify
from unet_tfrecords.storage import files

CONFIG = (*TINY, "--config.data.num_shards=6")
STEPS = ("--config.train.steps=6", "--config.train.checkpoint_every_steps=3")
ARGUMENTS = (*CONFIG, *STEPS)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw") / "raw"
    process(*module("draw", output=folder, frames=8, size=96)).check_returncode()
    return folder


def run(store, name, *arguments, code=0, **flags):
    command = module(name, *arguments, **flags)
    done = process(*command, env=store.environment, timeout=240)
    assert done.returncode == code, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def near(raw, tmp_path_factory):
    """What the road makes on a disk."""
    place = tmp_path_factory.mktemp("near")
    for name, arguments, flags in (
        ("preprocess", CONFIG, {"input": raw, "output": place / "data"}),
        (
            "train",
            (*CONFIG, *STEPS),
            {"data": place / "data", "workdir": place / "run"},
        ),
        ("export", (), {"workdir": place / "run", "output": place / "export"}),
    ):
        process(*module(name, *arguments, **flags)).check_returncode()
    return place


@pytest.mark.long
@pytest.mark.timeout(900)  # s; a dozen starts of TensorFlow
@pytest.mark.parametrize("scheme", ["gs", "s3", "az"])
def test_from_images_to_predictions(
    scheme, raw, near, tmp_path, series, digests, monkeypatch
):
    """With what may pass on the way."""
    with loopback.OPENERS[scheme](tmp_path) as store:
        store.upload(raw, "raw")
        root = store.root
        pauses = () if scheme == "az" else (Fault(503), Fault(429))  # 15 s each
        store.harm(store.reads, *pauses, Fault(reset_after=50))
        store.harm(store.writes, *pauses)
        run(store, "preprocess", *CONFIG, input=f"{root}/raw", output=f"{root}/data")
        store.harm(store.reads_of("train-"), *pauses, Fault(reset_after=1000))
        where = {"data": f"{root}/data", "workdir": f"{root}/run"}
        run(store, "train", *ARGUMENTS, **where)
        assert not store.untouched
        assert not [name for name in store.names("data/") if "/." in name]
        fetched = store.fetch("data/", tmp_path / "fetched")
        store.fetch("run/", fetched)
        assert digests(fetched / "data") == digests(near / "data")
        assert verify.verify(str(fetched / "data"))
        assert series(fetched / "run") == series(near / "run")
        assert list((fetched / "run/logs").glob("*.v2"))  # TensorBoard's
        more = ("--config.train.steps=8",)
        run(store, "train", *ARGUMENTS, *more, extend_steps=8, **where)
        run(store, "evaluate", workdir=f"{root}/run", input=f"{root}/raw")
        assert "run/evaluation-test.json" in store.names("run/")
        run(store, "export", workdir=f"{root}/run", publish=f"{root}/export")
        where = {"input": f"{root}/raw/01", "output": f"{root}/seen"}
        run(store, "predict", model=f"{root}/export", **where)
        masks = [name for name in store.names("seen/") if name.endswith("_mask.png")]
        assert len(masks) == 8
        assert not [name for name in store.names() if files.TEMPORARY in name]


@pytest.mark.long
@pytest.mark.timeout(600)  # s; some starts of TensorFlow
def test_images_shards_and_models_are_read_from_the_web(
    raw, near, tmp_path, series, digests
):
    with loopback.web(tmp_path) as store:
        for folder, name in (
            (raw, "raw"),
            *((near / n, n) for n in ("data", "export")),
        ):
            store.upload(folder, name)
        store.harm("GET", *[Fault(), Fault(503)] * 3)
        data, root = tmp_path / "data", store.root
        run(store, "preprocess", *CONFIG, input=f"{root}/raw", output=data)
        assert digests(data) == digests(near / "data")
        where = {"data": f"{root}/data", "workdir": tmp_path / "run"}
        run(store, "train", *ARGUMENTS, **where)
        assert series(tmp_path / "run") == series(near / "run")
        seen = tmp_path / "seen"
        run(
            store,
            "predict",
            model=f"{root}/export",
            input=f"{root}/raw/01",
            output=seen,
        )
        assert len(list(pathlib.Path(seen).glob("*_mask.png"))) == 8
        more = {"data": data, "workdir": f"{root}/run"}
        told = run(store, "train", *ARGUMENTS, code=2, **more)
        assert "web servers are read only" in told
        assert not store.untouched
