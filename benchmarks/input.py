"""Tiles a second and core that the trainer's input pipeline gives, by encoding.

    ./launch.sh benchmark --what=input --data=DIR   (a folder that preprocess made)

Everything included: read, checksums, parse, decode, flips and quarter turns, batches of
8. The process keeps to one core. First the pipeline as the trainer runs it, on the
shards as they lie; then the same tiles written in other encodings and read by the same
steps, and as PNG files by PyTorch's DataLoader, each round all of them in turn.
Medians, by processor time.
"""

import os
import pathlib
import statistics
import sys
import tempfile
import time
import zlib

sys.path[0] = str(pathlib.Path(__file__).parent.parent)  # not this folder
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import ml_collections

from benchmarks.record import Record, parser_of, run
from benchmarks.sides import turns
from configs import base, variants
from trainer.devices.startup import starting
from trainer.input.reading_order import deal_lanes
from trainer.input.shard_files import find_shards
from unet_tfrecords.dataset.dataset_info import read_info
from unet_tfrecords.dataset.images.png import encode_png
from unet_tfrecords.dataset.shards import read_tiles

with starting():
    import tensorflow as tf

    from trainer.input import input_pipeline, light_augment

BATCH = 8
# How image, then label and weight, are stored.
ENCODINGS = [
    ("raw", "png"),
    ("png", "png"),
    ("zlib", "png"),
    ("raw", "raw"),
    ("raw", "zlib"),
    ("zlib", "zlib"),
]
TORCH = "PyTorch's DataLoader, PNG files"


def encode(array, encoding: str, flat: bool) -> bytes:
    if encoding == "png":
        return encode_png(array, flat=True) if flat else encode_png(array)
    raw = array.tobytes()
    return zlib.compress(raw, 1) if encoding == "zlib" else raw


def decode(content, encoding: str, shape):
    if encoding == "png":
        return tf.reshape(tf.io.decode_png(content, shape[-1]), shape)
    if encoding == "zlib":
        content = tf.io.decode_compressed(content, "ZLIB")
    return tf.reshape(tf.io.decode_raw(content, tf.uint8), shape)


def write(path: str, tiles, image: str, target: str, step: float) -> float:
    """A TFRecord of the tiles in an encoding; bytes a tile."""
    with tf.io.TFRecordWriter(path) as writer:
        for tile in tiles:
            weight = (tile.weight / step).round().astype("uint8")
            content = {
                "image": encode(tile.image, image, False),
                "label": encode(tile.label, target, True),
                "weight": encode(weight, target, True),
                "key": tile.key.encode(),
            }
            feature = {
                name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
                for name, value in content.items()
            }
            for name in ("mean", "std"):
                values = getattr(tile, name).tolist()
                feature[name] = tf.train.Feature(
                    float_list=tf.train.FloatList(value=values)
                )
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())
    return os.path.getsize(path) / len(tiles)


def parse(record, image: str, target: str, geometry) -> dict[str, tf.Tensor]:
    """What `input_pipeline.parse_tile` does, with the encodings as given."""
    strings = {
        name: tf.io.FixedLenFeature([], tf.string)
        for name in ("image", "label", "weight", "key")
    }
    floats = {
        name: tf.io.FixedLenFeature([geometry.channels], tf.float32)
        for name in ("mean", "std")
    }
    found = tf.io.parse_single_example(record, strings | floats)
    size, output = geometry.tile_size, geometry.output_size
    sides = [output, output, 1]
    return {
        "image": decode(found["image"], image, [size, size, geometry.channels]),
        "label": decode(found["label"], target, sides)[..., 0],
        "weight": decode(found["weight"], target, sides)[..., 0],
        "mean": found["mean"],
        "std": found["std"],
    }


def all_changes() -> ml_collections.ConfigDict:
    """All that the variant `:cpu` turns on."""
    config = base.get_config()
    variants.cpu(config)
    return config.train.augment


def stream(path: str, image: str, target: str, geometry) -> tf.data.Dataset:
    """The trainer's steps on one file."""

    def made(number, record):
        tile = parse(record, image, target, geometry)
        return light_augment.change(tile, number, augment=all_changes(), seed=1)

    records = tf.data.TFRecordDataset(path).repeat().shuffle(64, seed=1)
    return (
        records.enumerate()
        .map(made, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(BATCH, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def write_files(folder: str, tiles, step: float) -> float:
    """The tiles as three PNG files each; bytes a tile."""
    os.mkdir(folder)
    for number, tile in enumerate(tiles):
        weight = (tile.weight / step).round().astype("uint8")
        parts = {"image": tile.image, "label": tile.label, "weight": weight}
        for name, array in parts.items():
            path = os.path.join(folder, f"{number:06d}-{name}.png")
            pathlib.Path(path).write_bytes(encode_png(array))
    size = sum(path.stat().st_size for path in pathlib.Path(folder).iterdir())
    return size / len(tiles)


def torch_loader(python: str, folder: str) -> turns.Player:
    """A process on this core that reads such files."""
    script = pathlib.Path(__file__).parent / "sides/torch_loader.py"
    return turns.Player([python, str(script), folder, str(BATCH)], {})


def tiles_per_cpu_second(batches, number: int) -> float:
    """By processor time, which what else the machine does leaves alone."""
    for _ in range(3):
        next(batches)
    started = time.process_time()
    for _ in range(-(-number // BATCH)):
        next(batches)
    return -(-number // BATCH) * BATCH / (time.process_time() - started)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--torch_python", default=sys.executable, help="a Python with PyTorch, Pillow"
    )
    parser.add_argument("--data", required=True, help="folder that preprocess made")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiles", type=int, default=400, help="of each, in a round")
    given = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # before TensorFlow counts the cores
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    record = Record()
    info = read_info(given.data)
    geometry = info.geometry
    if geometry.bits != 8:
        parser.error("--data: compares encodings of 8 bits; give such a data set")
    shards = find_shards(info, given.data, "train")
    tiles = [t for shard in shards[:2] for t in read_tiles(shard.path, info.geometry)]
    trainers = input_pipeline.training_batches(
        deal_lanes(shards, BATCH),
        geometry,
        global_batch=BATCH,
        shuffle_tiles=256,
        seed=1,
        augment=all_changes(),
    )
    sizes = {"trainer": sum(s.entry.bytes for s in shards) / sum(s[1] for s in shards)}
    with tempfile.TemporaryDirectory() as scratch:
        streams = {"trainer": iter(trainers)}
        for image, target in ENCODINGS:
            name = f"image {image}, targets {target}"
            path = os.path.join(scratch, name)
            sizes[name] = write(path, tiles, image, target, geometry.weight_step)
            streams[name] = iter(stream(path, image, target, geometry))
        folder = os.path.join(scratch, "files")
        sizes[TORCH] = write_files(folder, tiles, geometry.weight_step)
        starter = {TORCH: lambda: torch_loader(given.torch_python, folder)}
        players = turns.start(starter, record)
        rates: dict[str, list[float]] = {name: [] for name in [*streams, *players]}
        number = -(-given.tiles // BATCH)
        for _ in range(given.rounds):
            for name, batches in streams.items():
                rates[name].append(tiles_per_cpu_second(batches, given.tiles))
            for name, player in players.items():
                rates[name].append(number * BATCH / player.turn(number)["cpu"])
        for player in players.values():
            player.end()
    print(
        f"{geometry.tile_size} px, one core, "
        f"{given.rounds} rounds of {given.tiles} tiles"
    )
    print(f"{'':>31}  {'tiles/s':>8}  {'ms a tile':>9}  {'kB a tile':>9}")
    for name, found in rates.items():
        record.add("tiles read", name, found, unit="tiles/s and core")
        record.add("size of a tile", name, [sizes[name] / 1000], unit="kB")
        rate = statistics.median(found)
        print(f"{name:>31}  {rate:8.0f}  {1000 / rate:9.2f}  {sizes[name] / 1000:9.1f}")
    record.write(given.json)


if __name__ == "__main__":
    run(main)
