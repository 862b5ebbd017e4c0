"""Shards to batches. The order is a pure function of (seed, epoch, step).

Shapes: B batch, T tile pixels, O output pixels, C channels.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from preprocess import files
from preprocess.errors import UserError
from preprocess.records import BYTES_FEATURES, FLOAT_FEATURES


class Geometry(NamedTuple):
    """What a reader must know of the records, from `dataset_info.json`."""

    tile_size: int
    output_size: int
    depth: int
    channels: int
    classes: int
    bits: int
    image_encoding: str
    weight_step: float


def geometry_of(info: dict[str, Any]) -> Geometry:
    """The geometry that a data set declares."""
    return Geometry(**info["geometry"])


def shard_paths(info: dict[str, Any], folder: str, split: str) -> list[str]:
    """Paths of a split's shards.

    Raises:
      UserError: the split is empty or a shard is missing.
    """
    shards = info["splits"][split]["shards"]
    paths = [files.join(folder, shard["name"]) for shard in shards]
    if not paths:
        raise UserError(f"{folder}: the {split} split is empty; see config.data.split")
    present = set(files.list_files(folder))
    if missing := [path for path in paths if path not in present]:
        raise UserError(
            [f"{path}: missing; run preprocess again to make it" for path in missing]
        )
    return paths


def parse_tile(record: tf.Tensor, geometry: Geometry) -> dict[str, tf.Tensor]:
    """A record's tensors: the schema of `preprocess.records`, in graph code.

    Returns:
      image uint8 or uint16 [T, T, C], label uint8 [O, O], weight uint8 [O, O] in steps
      of geometry.weight_step, mean and std float32 [C], key string [].
    """
    channels, tile, output = geometry.channels, geometry.tile_size, geometry.output_size
    spec = {name: tf.io.FixedLenFeature([], tf.string) for name in BYTES_FEATURES}
    spec |= {
        name: tf.io.FixedLenFeature([channels], tf.float32) for name in FLOAT_FEATURES
    }
    features = tf.io.parse_single_example(record, spec)
    dtype = tf.uint16 if geometry.bits == 16 else tf.uint8
    if geometry.image_encoding == "raw":
        image = tf.io.decode_raw(features["image"], dtype)
    else:
        image = tf.io.decode_png(features["image"], channels, dtype)
    label = tf.io.decode_png(features["label"], 1)
    weight = tf.io.decode_png(features["weight"], 1)
    return {
        "image": tf.reshape(image, [tile, tile, channels]),
        "label": tf.reshape(label, [output, output]),
        "weight": tf.reshape(weight, [output, output]),
        "mean": features["mean"],
        "std": features["std"],
        "key": features["key"],
    }


def _records_of_epoch(
    paths: list[str], epoch: tf.Tensor, *, seed: int, shuffle_tiles: int
) -> tf.data.Dataset:
    """All records of one epoch in their order, which (seed, epoch) alone decides."""
    shuffled = tf.random.experimental.stateless_shuffle(
        tf.constant(paths), seed=tf.stack([tf.cast(seed, tf.int64), epoch])
    )
    return (
        tf.data.Dataset.from_tensor_slices(shuffled)
        # Several shards at once, so that neighbours come from different frames.
        .interleave(
            tf.data.TFRecordDataset,
            cycle_length=min(16, len(paths)),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        # Undecoded records: a buffer of them is small, and skipping them is cheap.
        .shuffle(
            shuffle_tiles,
            seed=tf.cast(seed, tf.int64) * 1_000_003 + epoch,
            reshuffle_each_iteration=False,
        )
    )


def training_batches(
    paths: list[str],
    geometry: Geometry,
    *,
    num_tiles: int,
    global_batch: int,
    shuffle_tiles: int,
    seed: int,
    start_step: int = 0,
) -> tf.data.Dataset:
    """Endless batches, starting with that of `start_step`.

    Args:
      num_tiles: records in all shards together.
      global_batch: tiles a batch, over all replicas.
      start_step: batches to leave out: epochs are not read, tiles not decoded.
    """
    epoch, skipped = divmod(start_step * global_batch, num_tiles)
    return (
        tf.data.Dataset.counter(epoch)
        .flat_map(
            lambda epoch: _records_of_epoch(
                paths, epoch, seed=seed, shuffle_tiles=shuffle_tiles
            )
        )
        .skip(skipped)
        .map(
            lambda record: parse_tile(record, geometry),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        .batch(global_batch, drop_remainder=True)  # over the ends of epochs
        .prefetch(tf.data.AUTOTUNE)
    )


def validation_batches(
    paths: list[str], geometry: Geometry, *, batch: int
) -> tf.data.Dataset:
    """Every tile of a split once, in the order of the shards."""
    return (
        tf.data.TFRecordDataset(paths)
        .map(
            lambda record: parse_tile(record, geometry),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        .batch(batch)
        .prefetch(tf.data.AUTOTUNE)
    )


def normalise(batch: dict[str, tf.Tensor]) -> tf.Tensor:
    """(image - mean) / std of the tile's frame, float32 [B, T, T, C]; on the device.

    Pixels cross to the device in 8 or 16 bit, a quarter or half of float32's bytes.
    """
    image_BTTC = tf.cast(batch["image"], tf.float32)
    return (image_BTTC - batch["mean"][:, None, None, :]) / (
        batch["std"][:, None, None, :]
    )
