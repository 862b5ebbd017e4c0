"""gs:// from images to predictions, and what a bucket can do to it."""

import os
import re
import signal
from functools import partial
from urllib.parse import quote

import numpy as np
import pytest
import tifffile

from tests.cloud import gcs, google_hosts
from tests.cloud.gcs import Fault
from tests.commands import PYTHON, TINY, module, process
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset import verify
from unet_tfrecords.dataset.images.formats import count_pages, read_image
from unet_tfrecords.dataset.images.pages import Page
from unet_tfrecords.storage import files, local_copies, object_store

quote = partial(quote, safe="")
BUCKET = f"gs://{gcs.BUCKET}"
CONFIG = (*TINY, "--config.data.num_shards=2")
# Beam makes a client for each call, and leaves its connections to the collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed <socket:ResourceWarning",
    "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning",
)


@pytest.fixture
def here(front, tmp_path, monkeypatch):
    """This process with an account whose tokens the bucket wants."""
    hosts = google_hosts.GoogleHosts(tmp_path, front.address)
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_EMULATOR_HOST"):
        monkeypatch.setenv(name, hosts.environment[name])
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "test")
    # Google's client asks another host of its own about the account.
    monkeypatch.setenv("GOOGLE_AUTH_TRUST_BOUNDARY_ENABLED", "false")
    from apache_beam.internal.gcp.auth import _Credentials

    monkeypatch.setattr(_Credentials, "_credentials_init", False)
    front.tokens = set()
    return front


# --- What passes ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [Fault(429, "rateLimitExceeded"), Fault(503), Fault(reset_after=100_000)],
    ids=["429", "503", "reset"],
)
def test_reading_goes_on_after(here, fault):
    content = os.urandom(300_000)
    here.put("a/b.bin", content)
    here.harm("GET .*alt=media", fault, fault)
    assert files.read_bytes(f"{BUCKET}/a/b.bin") == content
    assert not here.untouched


@pytest.mark.slow
@pytest.mark.parametrize("status", [429, 503])
def test_listing_and_writing_go_on_after(here, status):
    here.harm("GET .*/o[?]", Fault(status))
    assert files.glob(f"{BUCKET}/a/*") == []
    for request in ("POST /upload", "PUT /upload", "POST /batch"):
        here.harm(request, Fault(status))
    content = os.urandom(100_000)
    with files.open_atomic(f"{BUCKET}/a/b.bin") as file:
        file.write(content)
    assert not here.untouched
    assert here.names() == ["a/b.bin"]
    assert files.read_bytes(f"{BUCKET}/a/b.bin") == content


@pytest.mark.slow
def test_a_slow_bucket_is_waited_for(here):
    here.put("a.bin", bytes(100_000))
    here.harm("GET .*alt=media", Fault(pause_s=0.2))
    assert files.read_bytes(f"{BUCKET}/a.bin") == bytes(100_000)


def test_a_token_that_expires_is_renewed(here):
    here.put("a.bin", b"a")
    assert files.read_bytes(f"{BUCKET}/a.bin") == b"a"
    given = here.tokens_given
    here.tokens.clear()
    assert files.read_bytes(f"{BUCKET}/a.bin") == b"a"
    assert here.tokens_given > given


# --- What doesn't --------------------------------------------------------------------


def test_no_bucket_no_right_no_object_are_told_apart(here):
    with pytest.raises(UserError, match="gs://nowhere/a/\\*: no bucket gs://nowhere"):
        files.glob("gs://nowhere/a/*")
    with pytest.raises(FileNotFoundError, match="gs://models/a.bin: no such object"):
        files.read_bytes(f"{BUCKET}/a.bin")
    assert not files.exists(f"{BUCKET}/a.bin")
    here.harm("GET .*/o", *[Fault(403, "forbidden")] * 3)
    for call in (files.read_bytes, files.exists, files.glob):
        with pytest.raises(UserError, match="access to gs://models denied"):
            call(f"{BUCKET}/a.bin")
    here.harm("POST", Fault(403, "forbidden"))
    with pytest.raises(UserError, match="gs://models/b.bin: access to gs://models den"):
        files.write_bytes(f"{BUCKET}/b.bin", b"b")
    assert here.names() == []


def test_what_fails_half_way_is_not_seen(here):
    with pytest.raises(RuntimeError):
        with files.open_atomic(f"{BUCKET}/a.bin") as file:
            file.write(bytes(100))
            raise RuntimeError
    assert here.names() == []


def test_other_schemes_have_a_line_each():
    for path, words in (
        ("s4://b/a", "no file system for s4:// here"),
        ("azfs://b/c/a", "no file system for azfs:// here; pip install"),
        ("http://b/a", "no file system for http:// here; fetch it first"),
        ("az://b/a", "no file system for az:// here; Beam's name for it is azfs://"),
    ):
        with pytest.raises(UserError, match=words):
            files.exists(path)
    with object_store.explained("gs://b/a"), pytest.raises(KeyError):
        raise KeyError  # is nothing of a store's


def test_a_stack_is_fetched_once_for_all_its_pages(here, tmp_path, monkeypatch):

    stack = np.random.default_rng(1).integers(0, 255, (12, 64, 64), np.uint8)
    tifffile.imwrite(tmp_path / "stack.tif", stack)
    here.put("stack.tif", (tmp_path / "stack.tif").read_bytes())
    path = f"{BUCKET}/stack.tif"
    assert count_pages(path) == 12
    for number in range(12):
        image = read_image(Page(path, number), 1)
        np.testing.assert_array_equal(np.squeeze(image), stack[number])
    fetched = [r for r in here.seen if "alt=media" in r.path]
    assert len(fetched) == 1
    tifffile.imwrite(tmp_path / "stack.tif", stack[::-1])
    here.put("stack.tif", (tmp_path / "stack.tif").read_bytes())
    monkeypatch.setattr(local_copies, "TRUSTED_S", 0.0)  # a minute later
    image = read_image(Page(path, 0), 1)
    np.testing.assert_array_equal(np.squeeze(image), stack[-1])


def test_many_stacks_in_turn_are_fetched_once_each(here, tmp_path):

    stacks = np.random.default_rng(2).integers(0, 255, (6, 3, 32, 32), np.uint8)
    for index, stack in enumerate(stacks):
        tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="minisblack")
        here.put(f"many/{index}.tif", (tmp_path / "stack.tif").read_bytes())
    for number in range(3):
        for index, stack in enumerate(stacks):
            image = read_image(Page(f"{BUCKET}/many/{index}.tif", number), 1)
            np.testing.assert_array_equal(np.squeeze(image), stack[number])
    assert len([r for r in here.seen if "alt=media" in r.path]) == len(stacks)


STOPPED = """
import os, signal, sys, threading
from unet_tfrecords.command import cli, signals
from unet_tfrecords.storage import local_copies as near

def run(values, rest):
    threading.Thread(target=near.open_near, args=[sys.argv[2]], daemon=True).start()
    with near.open_near(sys.argv[1]) as file:
        assert file.read() == b"abc"
    while sum(len(names) for _, _, names in os.walk(os.environ["TMPDIR"])) < 2:
        pass
    os.kill(os.getpid(), int(sys.argv[3]))
    signal.pause()

command = cli.Command("wait", "", (), run)
signals.leave(cli.main(command._replace(takes_arguments=True)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_command_leaves_no_copies(here, tmp_path, number, code):
    """Neither one that is kept, nor one on its way."""
    here.put("a.bin", b"abc")
    here.put("slow.bin", bytes(2**20))
    here.faults.append((re.compile("slow.*alt=media"), [Fault(pause_s=0.5)]))
    (tmp_path / "tmp").mkdir()
    arguments = [f"{BUCKET}/a.bin", f"{BUCKET}/slow.bin", str(int(number))]
    own = {"TMPDIR": str(tmp_path / "tmp")}
    done = process(PYTHON, "-c", STOPPED, *arguments, env=own, timeout=60)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    assert os.listdir(tmp_path / "tmp") == []


def test_names_like_patterns_are_read_and_not_written(here):
    folder = f"{BUCKET}/run[1]*"
    here.put("run[1]*/a.bin", b"abc")
    here.put("run1x/b.bin", b"another")
    assert files.list_files(folder) == [f"{folder}/a.bin"]
    assert files.sizes_in(folder) == {f"{folder}/a.bin": 3}
    assert files.size_of(f"{folder}/a.bin") == 3
    with pytest.raises(UserError, match="a name with"):
        files.write_bytes(f"{folder}/c.bin", b"c")


def test_what_may_pass_has_an_exit_code_of_its_own():
    """deploy/kubernetes.yaml starts again what ends so, and not what ends with 2."""
    for status, code in ((503, 75), (429, 75), (403, 2), (401, 2)):
        line = f"gs://b/a: {object_store.reason_of(status, 'gs://b/a')}"
        assert object_store.store_error(line).exit_code == code


# --- The whole road ------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(900)  # s; a dozen starts of TensorFlow
def test_from_images_to_predictions(front, tmp_path, series, digests):
    """With faults on the way; the same data and losses as on a disk."""
    hosts = google_hosts.lead(front, tmp_path)
    raw = tmp_path / "raw"
    process(*module("draw", output=raw, frames=8, size=96)).check_returncode()
    front.upload(raw, "raw")

    def run(name, *arguments, **flags):
        done = hosts.run(*module(name, *arguments, **flags), timeout=240)
        assert done.returncode == 0, done.stderr

    steps = ("--config.train.steps=6", "--config.train.checkpoint_every_steps=3")
    local, far = str(tmp_path), BUCKET
    front.harm("GET .*alt=media", Fault(503), Fault(reset_after=50))
    front.harm("POST /upload", Fault(429), Fault(503))
    others = "data/.unfinished-plan-other-00000.jsonl"
    front.put(others, b"another job's")
    for place in (local, far):
        data, work = f"{place}/data", f"{place}/run"
        run("preprocess", *CONFIG, input=f"{place}/raw", output=data)
        if place == far:
            front.harm("GET /models/data", Fault(503), Fault(reset_after=1000))
        run("train", *CONFIG, *steps, data=data, workdir=work)
    assert not front.untouched
    assert front.names("data/.") == [others]
    front.ask("DELETE", f"/storage/v1/b/{gcs.BUCKET}/o/{quote(others)}", {}, b"")
    fetched = front.fetch("data/", tmp_path / "fetched")
    front.fetch("run/metrics", fetched)
    assert digests(fetched / "data") == digests(tmp_path / "data")
    assert verify.verify(str(fetched / "data"))
    assert series(fetched / "run") == series(tmp_path / "run")
    run("evaluate", workdir=f"{far}/run", input=f"{far}/raw")
    run("export", workdir=f"{far}/run", output=f"{far}/export")
    where = {"input": f"{far}/raw/01", "output": f"{far}/predictions"}
    run("predict", model=f"{far}/export", **where)
    assert "export/1/saved_model.pb" in front.names()
    assert len([n for n in front.names("predictions/") if n.endswith(".png")]) == 16
    assert not [name for name in front.names() if files.TEMPORARY in name]
