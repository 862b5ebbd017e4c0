"""Shards to batches. The order is a pure function of (seed, epoch, step).

Shapes: B batch, T tile pixels, O output pixels, C channels.
"""

import itertools

import ml_collections
import tensorflow as tf

from trainer.devices.graphs import as_written
from trainer.input import light_augment
from trainer.input.arrivals import Arrivals
from trainer.input.reading_order import MOST_LANES, Part, ShardFile, part_of
from unet_tfrecords.dataset.records import (
    BYTES_FEATURES,
    FLOAT_FEATURES,
    PLANES,
    Geometry,
)

READ_AT_ONCE = 16  # shards over all lanes, whose records are shuffled together
LEAST_AT_ONCE = 4  # of each lane
READ_BYTES = 2**20  # read ahead in each file
READ_RECORDS = 4  # read ahead in each lane


def parse_tile(record: tf.Tensor, geometry: Geometry) -> dict[str, tf.Tensor]:
    """A record's tensors: the schema of `dataset.records`, in graph code.

    Returns:
      image uint8 or uint16 [T, T, C], label uint8 [O, O], weight uint8 [O, O] in steps
      of geometry.weight_step, mean and std float32 [C], key string []; planes uint8
      [O, O, P] where the target has any.
    """
    numbers = tf.io.FixedLenFeature([geometry.channels], tf.float32)
    spec = {name: tf.io.FixedLenFeature([], tf.string) for name in BYTES_FEATURES}
    spec |= {name: numbers for name in FLOAT_FEATURES}
    if geometry.planes:
        spec[PLANES] = tf.io.FixedLenFeature([], tf.string)
    tile = tf.io.parse_single_example(record, spec)
    tile["image"] = decode_pixels(tile["image"], geometry)
    size = geometry.output_size
    for name in ("label", "weight"):
        decoded = tf.io.decode_png(tile[name], 1)
        tile[name] = tf.reshape(decoded, [size, size])
    if geometry.planes:
        below = tf.reshape(tf.io.decode_png(tile[PLANES], 1), [-1, size, size])
        tile[PLANES] = tf.ensure_shape(
            tf.transpose(below, [1, 2, 0]), [size, size, geometry.planes]
        )
    return tile


def decode_pixels(encoded: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """A record's `image`: uint8 or uint16 [T, T, C]."""
    channels, tile = geometry.channels, geometry.tile_size
    dtype = tf.uint16 if geometry.bits == 16 else tf.uint8
    if geometry.image_encoding == "raw":
        image = tf.io.decode_raw(encoded, dtype)
    else:
        image = tf.io.decode_png(encoded, channels, dtype)
    return tf.reshape(image, [tile, tile, channels])


def shards_together(num_lanes: int) -> int:
    """Shards of a lane that are read at once."""
    return max(LEAST_AT_ONCE, READ_AT_ONCE // num_lanes)


def _lane_records(
    shards: list[ShardFile],
    *,
    lane: int,
    start: int,
    seed: int,
    buffer: int,
    together: int,
    arrivals: Arrivals | None,
) -> tf.data.Dataset:
    """A lane's records from number `start` on, without end.

    Each epoch has its own order of the shards. Some are read at once, so that
    neighbours come from different frames, and shuffled among themselves; then the next
    ones. So starting in the middle leaves out whole files unread, however many. Those
    of a store are fetched while the ones before them are read.
    """
    together = min(together, len(shards))
    epoch, within = divmod(start, sum(shard.records for shard in shards))
    lane_seed = tf.constant(seed * MOST_LANES + lane, tf.int64)
    paths = tf.constant([shard.path for shard in shards])

    def order_of(epoch):
        return tf.random.experimental.stateless_shuffle(
            tf.range(len(shards)), seed=tf.stack([lane_seed, epoch]), alg="philox"
        )

    def groups_of(epoch):
        ordered = tf.data.Dataset.from_tensor_slices(tf.gather(paths, order_of(epoch)))
        groups = ordered.batch(together).enumerate()
        return groups.map(lambda number, group: (epoch, number, group))

    def records_of(epoch, number, group):
        return (
            tf.data.Dataset.from_tensor_slices(group)
            .interleave(
                lambda path: tf.data.TFRecordDataset(path, buffer_size=READ_BYTES),
                cycle_length=together,
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
            # Undecoded records: a buffer of them is small, and skipping is cheap.
            .shuffle(
                buffer,
                seed=lane_seed * 1_000_003 + epoch * 1_009 + number,
                reshuffle_each_iteration=False,
            )
        )

    skipped = 0
    order = order_of(tf.constant(epoch, tf.int64)).numpy().tolist()
    for first in range(0, len(order), together):
        size = sum(shards[index].records for index in order[first : first + together])
        if within < size:
            break
        within -= size
        skipped += 1
    groups = tf.data.Dataset.counter(epoch).flat_map(groups_of).skip(skipped)
    if arrivals:

        def groups_to_fetch():
            for number in itertools.count(epoch):
                order = order_of(tf.constant(number, tf.int64)).numpy().tolist()
                for part, first in enumerate(range(0, len(order), together)):
                    some = order[first : first + together]
                    yield number, part, [shards[index].path for index in some]

        ahead = itertools.islice(groups_to_fetch(), skipped, None)
        queue = arrivals.reader().feed(ahead)

        def fetched(_):
            epoch, number, copies = queue.dequeue()
            return (
                tf.ensure_shape(epoch, []),
                tf.ensure_shape(number, []),
                tf.ensure_shape(copies, [None]),
            )

        groups = tf.data.Dataset.counter().map(fetched)
    return groups.flat_map(records_of).skip(within)


def _worker_records(
    lanes: list[list[ShardFile]],
    part: Part,
    *,
    global_batch: int,
    shuffle_tiles: int,
    seed: int,
    start_step: int,
    arrivals: Arrivals | None,
) -> tf.data.Dataset:
    """(number since training began, record) of the tiles at a worker's places."""
    each = global_batch // len(lanes)
    datasets = [
        _lane_records(
            lanes[lane],
            lane=lane,
            start=start_step * each,
            seed=seed,
            buffer=max(1, shuffle_tiles // len(lanes)),
            together=shards_together(len(lanes)),
            arrivals=arrivals,
        )
        for lane in part.lanes
    ]
    if len(datasets) > 1:
        # Each lane reads ahead by itself while another's turn it is.
        datasets = [dataset.prefetch(each + READ_RECORDS) for dataset in datasets]
        turns = tf.data.Dataset.range(len(datasets)).flat_map(
            lambda lane: tf.data.Dataset.from_tensors(lane).repeat(each)
        )
        records = tf.data.Dataset.choose_from_datasets(datasets, turns.repeat())
    else:
        [records] = datasets
    read = each * len(part.lanes)  # of each global batch
    first = part.lanes.start * each

    def number_of(index):
        step, place = index // read, index % read
        return (start_step + step) * global_batch + first + place

    numbered = records.enumerate().map(lambda i, record: (number_of(i), record))
    if read == len(part.places):
        return numbered
    own = len(part.places)
    worker = part.places.start // own
    return numbered.filter(lambda number, _: number % global_batch // own == worker)


@as_written
def training_batches(
    lanes: list[list[ShardFile]],
    geometry: Geometry,
    *,
    global_batch: int,
    shuffle_tiles: int,
    seed: int,
    augment: ml_collections.ConfigDict | None = None,
    part: Part | None = None,
    batch: int | None = None,
    start_step: int = 0,
    with_keys: bool = False,
    arrivals: Arrivals | None = None,
) -> tf.data.Dataset:
    """Endless batches, starting with those of `start_step`.

    Args:
      lanes: as `reading_order.deal_lanes` deals them.
      geometry: of the records.
      global_batch: tiles a step, over all replicas.
      shuffle_tiles: records in the shuffle buffers together.
      seed: with epoch and step it decides the order.
      augment: the config's `train.augment`; None changes nothing.
      part: what this worker reads; None is all.
      batch: tiles a batch, a replica's; None is `global_batch`.
      start_step: steps to leave out: neither read, where whole files are passed, nor
        decoded.
      arrivals: brings shards to this machine; None where they lie on its disks.
      with_keys: whether batches hold `key`; strings stay off the devices otherwise.
    """
    part = part or part_of(0, 1, global_batch, len(lanes))

    def decode(number, record):
        tile = parse_tile(record, geometry)
        if not with_keys:
            del tile["key"]
        if augment is None or not any(augment.values()):
            return tile
        return light_augment.change(tile, number, augment=augment, seed=seed)

    batches = (
        _worker_records(
            lanes,
            part,
            global_batch=global_batch,
            shuffle_tiles=shuffle_tiles,
            seed=seed,
            start_step=start_step,
            arrivals=arrivals,
        )
        .map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(batch or global_batch, drop_remainder=True)
    )
    # Said, because tf.distribute asks all workers before each step otherwise.
    endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    return batches.apply(endless).prefetch(tf.data.AUTOTUNE)


def normalise(batch: dict[str, tf.Tensor]) -> tf.Tensor:
    """(image - mean) / std of the tile's frame, float32 [B, T, T, C]; on the device.

    Pixels cross to the device in 8 or 16 bit, a quarter or half of float32's bytes.
    """
    image_BTTC = tf.cast(batch["image"], tf.float32)
    return (image_BTTC - batch["mean"][:, None, None, :]) / (
        batch["std"][:, None, None, :]
    )
