"""Which tile is read when, and by whom: pure functions of identity, no TensorFlow.

Shards are dealt into lanes. A lane is read by itself, endlessly, epoch after epoch;
each global batch takes the same number of tiles from every lane, side by side:

    lane 0: shards 0, 2     batch = [ lane 0 | lane 0 | lane 1 | lane 1 ]
    lane 1: shards 1, 3                worker 0            worker 1

The number of lanes depends on the data and the global batch alone, so the batches are
the same for any number of workers; a worker reads the lanes that its places need.
"""

import math
from typing import NamedTuple

from unet_tfrecords.dataset.dataset_info import Shard

MOST_LANES = 32  # read at once: more open files give nothing


class ShardFile(NamedTuple):
    """A file to read.

    Attributes:
      path: where it is read: in the data set's folder, or a copy.
      records: how many it has.
      entry: what `dataset_info.json` says of it.
    """

    path: str
    records: int
    entry: Shard


class Part(NamedTuple):
    """What of each global batch one worker reads.

    Attributes:
      places: of the global batch.
      lanes: numbers of those that hold them.
      by_file: whether no other worker reads these lanes' files.
    """

    places: range
    lanes: range
    by_file: bool


def deal_lanes(shards: list[ShardFile], global_batch: int) -> list[list[ShardFile]]:
    """Deals shards into as many lanes as divide the global batch and fill evenly.

    >>> shards = [ShardFile(str(i), 10, None) for i in range(16)]
    >>> [len(deal_lanes(shards, batch)) for batch in (1, 4, 6, 64)]
    [1, 4, 2, 16]
    """
    common = math.gcd(global_batch, len(shards))
    number = max(n for n in range(1, MOST_LANES + 1) if common % n == 0)
    return [shards[lane::number] for lane in range(number)]


def part_of(worker: int, workers: int, global_batch: int, num_lanes: int) -> Part:
    """The part of one worker: by file where the lanes divide among the workers.

    >>> part_of(1, 2, 8, 4)
    Part(places=range(4, 8), lanes=range(2, 4), by_file=True)
    >>> part_of(1, 2, 8, 1)
    Part(places=range(4, 8), lanes=range(0, 1), by_file=False)
    """
    own = global_batch // workers
    places = range(worker * own, (worker + 1) * own)
    if num_lanes % workers == 0:
        lanes = num_lanes // workers
        return Part(places, range(worker * lanes, (worker + 1) * lanes), True)
    return Part(places, range(num_lanes), workers == 1)
