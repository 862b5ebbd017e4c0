"""The record schema: round trip, and TensorFlow reads what we write."""

import io

import numpy as np
import pytest
import tensorflow as tf

from trainer.input.input_pipeline import parse_tile
from unet_tfrecords.dataset import records
from unet_tfrecords.dataset.records import Geometry

STEP = records.weight_step(10.0)


def random_tile(dtype=np.uint8, channels=1, size=60, output=20) -> records.Tile:
    rng = np.random.default_rng(5)
    top = np.iinfo(dtype).max
    return records.Tile(
        "set/01/t012/a03/r0c308",
        rng.integers(0, top, (size, size, channels), endpoint=True).astype(dtype),
        rng.choice([0, 1, 255], (output, output)).astype(np.uint8),
        rng.uniform(0, 10, (output, output)).astype(np.float32),
        rng.uniform(0, top, channels).astype(np.float32),
        rng.uniform(1, top, channels).astype(np.float32),
    )


CASES = [
    (dtype, channels, encoding)
    for dtype in (np.uint8, np.uint16)
    for channels in (1, 2, 3)
    for encoding in ("png", "raw")
    if not (channels == 2 and encoding == "png")
]


def assert_same(tile, image, label, weight, mean, std, planes=None):
    np.testing.assert_array_equal(image, tile.image)
    np.testing.assert_array_equal(label, tile.label)
    np.testing.assert_allclose(weight, tile.weight, atol=STEP / 2 + 1e-5)
    np.testing.assert_array_equal(mean, tile.mean)
    np.testing.assert_array_equal(std, tile.std)
    if tile.planes.size:
        np.testing.assert_array_equal(planes, tile.planes)


@pytest.mark.parametrize("dtype, channels, encoding", CASES)
def test_round_trip(dtype, channels, encoding):
    tile = random_tile(dtype, channels)
    record = records.encode(tile, encoding=encoding, step=STEP)
    bits = 8 * tile.image.itemsize
    geometry = Geometry(60, 20, 2, channels, 2, bits, encoding, STEP)
    read = records.parse(record, geometry)
    assert read.key == tile.key
    assert_same(tile, *read[1:])


def test_planes_of_a_target_come_back():
    rng = np.random.default_rng(6)
    planes = rng.integers(0, 256, (20, 20, 2)).astype(np.uint8)
    tile = random_tile()._replace(planes=planes)
    record = records.encode(tile, encoding="raw", step=STEP)
    geometry = Geometry(60, 20, 2, 1, 2, 8, "raw", STEP, planes=2)
    np.testing.assert_array_equal(records.parse(record, geometry).planes, planes)
    read = parse_tile(tf.constant(record), geometry)
    np.testing.assert_array_equal(read["planes"], planes)
    plain = records.encode(random_tile(), encoding="raw", step=STEP)
    with pytest.raises(ValueError, match="record without planes"):
        records.parse(plain, geometry)


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("dtype, channels, encoding", CASES)
def test_trainer_parses_the_same(dtype, channels, encoding, graph):
    tile = random_tile(dtype, channels)
    record = records.encode(tile, encoding=encoding, step=STEP)
    geometry = Geometry(60, 20, 2, channels, 2, 8 * tile.image.itemsize, encoding, STEP)
    parse = tf.function(parse_tile) if graph else parse_tile
    read = {k: v.numpy() for k, v in parse(tf.constant(record), geometry).items()}
    assert read["key"] == tile.key.encode()
    weight = read["weight"] * STEP
    assert_same(tile, read["image"], read["label"], weight, read["mean"], read["std"])


def test_record_is_a_tf_train_example():
    tile = random_tile()
    record = records.encode(tile, encoding="raw", step=STEP)
    example = tf.train.Example.FromString(record)
    assert set(example.features.feature) == {*records.BYTES_FEATURES, "mean", "std"}
    assert example.features.feature["image"].bytes_list.value[0] == tile.image.tobytes()


def test_weight_step_is_under_a_twentieth():
    assert STEP < 0.05


def framed(count=3) -> tuple[list[bytes], bytes]:
    written = [bytes([i]) * (i * 100) for i in range(count)]
    return written, b"".join(map(records.frame_record, written))


def test_tensorflow_reads_our_files_and_we_read_its(tmp_path):
    written, content = framed()
    (tmp_path / "ours").write_bytes(content)
    dataset = tf.data.TFRecordDataset(str(tmp_path / "ours"))
    assert list(dataset.as_numpy_iterator()) == written
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for record in written:
            writer.write(record)
    assert (tmp_path / "theirs").read_bytes() == content
    with open(tmp_path / "theirs", "rb") as file:
        assert list(records.read_records(file)) == written


def test_every_damaged_byte_is_noticed():
    written, content = framed()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1
        with pytest.raises(ValueError, match="at byte"):
            list(records.read_records(io.BytesIO(damaged)))


def test_truncation_is_noticed():
    _, content = framed()
    ends = {len(records.frame_record(b"")), len(content)}
    ends.add(len(content) - len(records.frame_record(b"\2" * 200)))
    for length in set(range(1, len(content))) - ends:
        with pytest.raises(ValueError, match="truncated at byte"):
            list(records.read_records(io.BytesIO(content[:length])))


def test_foreign_record_is_refused():
    foreign = tf.train.Example(
        features=tf.train.Features(feature={"image": tf.train.Feature()})
    ).SerializeToString()
    geometry = Geometry(60, 20, 2, 1, 2, 8, "raw", STEP)
    with pytest.raises(ValueError, match="without label"):
        records.parse(foreign, geometry)
    with pytest.raises(ValueError, match="not a tf.train.Example"):
        records.parse(b"\xff\xff", geometry)
