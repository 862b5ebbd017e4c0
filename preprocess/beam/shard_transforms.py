"""The Beam job's second half: shards of tiles, and files that say what they are of."""

import itertools
from collections.abc import Iterable, Iterator

import apache_beam as beam
import cv2
import ml_collections
import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.pvalue import AsSingleton

from preprocess import plan
from preprocess.beam import progress
from preprocess.beam.progress import TILES, Stopwatch
from preprocess.inspection import DatasetSummary
from preprocess.plan import Unit
from preprocess.render import load, tiles_of_unit
from preprocess.worker_memory import keep_freed_memory, room_for
from unet_tfrecords.dataset import splits
from unet_tfrecords.dataset.dataset_info import Shard, SourcePart, write_sources
from unet_tfrecords.dataset.pixel_statistics import count_values
from unet_tfrecords.dataset.records import UNLABELLED, encode, weight_step
from unet_tfrecords.dataset.seeds import identity_seed
from unet_tfrecords.dataset.shards import (
    kept_shard,
    shard_name,
    write_shard,
    write_sidecar,
)
from unet_tfrecords.storage import files, json_files


@beam.ptransform_fn
def WriteShards(units, *, config, output: str, facts: AsSingleton):
    """Units to shard files; yields a Shard for each."""
    return (
        units
        | "Group" >> beam.GroupBy(_shard_of)
        | "Write" >> beam.ParDo(WriteShard(config, output), facts)
    )


def _shard_of(unit: Unit) -> tuple[int, int]:
    """Numbers alone: Dask hashes keys, and words differ from process to process."""
    return splits.SPLITS.index(unit.frame.split), unit.shard


class WriteShard(beam.DoFn):
    """Makes one shard from its units, holding one frame and one window at a time."""

    STAGES = ("read", "render", "encode", "write")

    def __init__(self, config: ml_collections.ConfigDict, output: str):
        self.config = config
        self.output = output
        self.tiles_written = Metrics.counter(progress.NAMESPACE, "tiles_written")
        self.shards_kept = Metrics.counter(progress.NAMESPACE, "shards_kept")
        self.msec = {
            stage: Metrics.counter(progress.NAMESPACE, f"{stage}_msec")
            for stage in self.STAGES
        }

    def setup(self):
        # The workers are the parallelism; threads within each would only wait.
        cv2.setNumThreads(1)
        keep_freed_memory()

    def process(self, element, facts: DatasetSummary):
        # From a data set with problems nothing is made: write_info lists them.
        if not facts.problems:
            (split, index), grouped = element
            units = plan.in_order(grouped, self.config.seed)
            kept = [unit for unit in units if unit.frame.key not in facts.skipped]
            if kept:  # a shard whose frames are all bad is none
                yield self._finished(splits.SPLITS[split], index, kept, facts)

    def _finished(
        self, split: str, index: int, units: list[Unit], facts: DatasetSummary
    ) -> Shard:
        """An earlier run's shard where it is whole, else a new one."""
        name = shard_name(split, index, units[0].num_shards)
        made_from = json_files.fingerprint([facts.digest, [unit.key for unit in units]])
        if shard := kept_shard(self.output, name, made_from):
            self.shards_kept.inc()
            progress.add(self.output, TILES, shard.records)
            return shard
        watch = Stopwatch()
        class_pixels = np.zeros(UNLABELLED + 1, np.int64)
        path = files.join(self.output, name)
        written = write_shard(path, self._records(units, facts, class_pixels, watch))
        classes = class_pixels[: self.config.model.classes].tolist()
        shard = Shard(name, *written, tuple(classes), made_from)
        write_sidecar(self.output, shard)
        watch.rest("write")
        for stage, counter in self.msec.items():
            counter.inc(watch.msec(stage))
        return shard

    def _records(
        self,
        units: Iterable[Unit],
        facts: DatasetSummary,
        class_pixels: np.ndarray,
        watch: Stopwatch,
    ) -> Iterator[bytes]:
        """A shard's records; a frame is read once for its units in a row."""
        data = self.config.data
        step = weight_step(data.border_weight)
        for frame, of_frame in itertools.groupby(units, key=lambda unit: unit.frame):
            with room_for(frame):
                with watch.stage("read"):
                    loaded = load(frame, self.config)
                for unit in of_frame:
                    tiles = tiles_of_unit(
                        unit,
                        loaded,
                        self.config,
                        bits=facts.bits,
                        normalise_by=facts.moments,
                    )
                    made = 0
                    for tile in watch.each("render", tiles):
                        with watch.stage("encode"):
                            class_pixels += count_values(tile.label, len(class_pixels))
                            record = encode(
                                tile, encoding=data.image_encoding, step=step
                            )
                        yield record
                        made += 1
                    self.tiles_written.inc(made)
                    progress.add(self.output, TILES, made)
                del loaded


@beam.ptransform_fn
def WriteSources(entries, *, output: str, parts: int, facts: AsSingleton):
    """What is said of each frame, to files that say it of many; yields a SourcePart."""
    return (
        entries
        | "Parts" >> beam.GroupBy(lambda each: identity_seed(each.frame, 0) % parts)
        | "WriteParts" >> beam.FlatMap(_part_written, facts, output, parts)
    )


def _part_written(
    element, facts: DatasetSummary, output: str, parts: int
) -> Iterator[SourcePart]:
    if not facts.problems:
        index, entries = element
        yield write_sources(output, index, parts, entries)
