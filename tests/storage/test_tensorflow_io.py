"""tensorflow-io, at its end of life, still streams our shards to who relies on it."""

import json
import pathlib

import pytest

from tests.cloud import environment
from tests.cloud import stores as loopback
from tests.commands import ROOT, process
from trainer.input.input_pipeline import parse_tile
from unet_tfrecords.dataset.dataset_info import read_info

READ = """
import hashlib, json, os, sys
import tensorflow as tf
import tensorflow_io
from trainer.input.input_pipeline import parse_tile
from unet_tfrecords.dataset.dataset_info import read_info

data, root = sys.argv[1:]
geometry = read_info(data).geometry
paths = tf.io.gfile.glob(root + "/train-*.tfrecord")
found = {}
for record in tf.data.TFRecordDataset(sorted(paths)):
    tile = parse_tile(record, geometry)
    total = tf.reduce_sum(tf.cast(tile["image"], tf.int64))
    found[tile["key"].numpy().decode()] = int(total)
print(json.dumps(found), flush=True)
os._exit(0)  # tensorflow-io aborts a process at its very end (tensorflow/io#1912)
"""


@pytest.mark.long
@pytest.mark.timeout(1500)  # s; making the environment takes minutes
def test_shards_stream_through_tensorflow_io(shards_folder, tmp_path):
    import tensorflow as tf

    python = environment.io_python()
    data = pathlib.Path(shards_folder)
    with loopback.amazon(tmp_path) as store:
        store.upload(data, "data")
        # Its own name for the address.
        own = {**store.environment, "S3_ENDPOINT": store.address}
        command = (python, "-c", READ, data, f"{store.root}/data")
        done = process(*command, env={**own, "PYTHONPATH": str(ROOT)}, timeout=240)
    assert done.returncode == 0, done.stderr
    streamed = json.loads(done.stdout.splitlines()[-1])
    geometry, here = read_info(shards_folder).geometry, {}
    paths = sorted(map(str, data.glob("train-*.tfrecord")))
    for record in tf.data.TFRecordDataset(paths):
        tile = parse_tile(record, geometry)
        total = tf.reduce_sum(tf.cast(tile["image"], tf.int64))
        here[tile["key"].numpy().decode()] = int(total)
    assert streamed == here and len(here) > 10
