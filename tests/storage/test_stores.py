"""What TensorFlow's own clients of object stores say becomes one line."""

import pathlib

import pytest
import tensorflow as tf
from absl import flags

from tests.cloud import gcs, google_hosts
from tests.cloud.gcs import Fault
from tests.commands import PYTHON, TINY, module
from trainer.devices import tensorflow_stores

BUCKET = f"gs://{gcs.BUCKET}"
MANY = 50  # faults: more than anybody tries again
# TensorFlow's own pauses would be minutes.
SOON = {
    "GCS_RETRY_CONFIG_MAX_RETRIES": "2",
    "GCS_RETRY_CONFIG_INIT_DELAY_TIME_US": "1000",
    "GCS_RETRY_CONFIG_MAX_DELAY_TIME_US": "1000",
    # Google's client asks another host of its own about the account.
    "GOOGLE_AUTH_TRUST_BOUNDARY_ENABLED": "false",
}
# What befalls TensorFlow's requests for each object, and what is then said.
READING = {
    "denied": (Fault(403, "forbidden"), "access to gs://models denied"),
    "expired": (Fault(401, "authError"), "not logged in, or expired: `gcloud auth"),
    "gone": (Fault(404, "notFound"), "no such object, or no bucket"),
    "down": (Fault(503), "no good answer after several tries (503)"),
    "busy": (Fault(429), "no good answer after several tries (429)"),
    "broken": (Fault(reset_after=5), "(Failure when receiving data from the peer)"),
    "odd": (Fault(400, "strange"), "refused with 400"),
}
SCRIPT = """
import sys
import tensorflow as tf
from absl import flags
from unet_tfrecords.command.errors import UserError
from trainer.devices import tensorflow_stores
from trainer.run import checkpoints

def read(values, rest):
    list(tf.data.TFRecordDataset(f"{bucket}/{name}"))

def save(values, rest):
    checkpoints.save(tf.train.Checkpoint(v=tf.Variable(1.0)), f"{bucket}/kept", 1, {})

bucket, *names = sys.argv[1:]
for name, job in [*((name, read) for name in names), ("", save)]:
    try:
        tensorflow_stores.explained(job)(flags.FlagValues(), [])
    except UserError as error:
        print(error)
"""


def broken(values, rest):
    tf.debugging.Assert(False, ["gs://models/data/train-00000-of-00002.tfrecord"])


def missing(values, rest):
    tf.io.read_file("/nowhere/at/all")


def test_what_is_no_stores_keeps_its_traceback():
    with pytest.raises(tf.errors.OpError):
        tensorflow_stores.explained(broken)(flags.FlagValues(), [])


def test_what_a_disk_lacks_is_said_of_the_file():
    with pytest.raises(FileNotFoundError, match="/nowhere/at/all"):
        tensorflow_stores.explained(missing)(flags.FlagValues(), [])


@pytest.fixture
def hosts(front, tmp_path):
    """The bucket's front, and Google's names led to it."""
    return front, google_hosts.lead(front, tmp_path)


@pytest.mark.slow
def test_each_answer_has_its_line(hosts):
    front, google = hosts
    for name, (fault, _) in READING.items():
        front.harm(f"GET /models/{name}", *[fault] * MANY)
    front.harm("POST /upload", *[Fault(403, "forbidden")] * MANY)
    done = google.run(PYTHON, "-c", SCRIPT, BUCKET, *READING, more=SOON)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for name, (_, words) in READING.items():
        line = lines.pop(0)
        assert line.startswith(f"{BUCKET}/{name}: ") and words in line
    [saved] = lines
    assert saved.startswith(f"{BUCKET}/kept/")
    assert "access to gs://models denied" in saved


@pytest.mark.slow
def test_training_that_loses_its_bucket_says_so(hosts, shards_folder, tmp_path):
    front, google = hosts
    front.upload(pathlib.Path(shards_folder), "data")
    front.harm("GET /models/data.*train", *[Fault(403, "forbidden")] * MANY)
    where = {"data": f"{BUCKET}/data", "workdir": tmp_path / "run"}
    done = google.run(*module("train", *TINY, **where), more=SOON)
    assert done.returncode == 2, done.stderr
    [told] = [line for line in done.stderr.splitlines() if line.startswith("train: ")]
    assert f"{BUCKET}/data/train-" in told and "access to gs://models denied" in told
    assert "Traceback" not in done.stderr
