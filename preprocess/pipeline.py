"""The Beam job. Its transforms only wire; what they call does the thinking.

    folder ─ PlanUnits ─┬─ InspectFrames, DigestSources ── facts ─┐ (side input)
                        │                                         ▼
                        └─────── group by shard ──────────── WriteShards ── WriteInfo

What is shuffled is the plan, some hundred bytes a unit, never the pixels: each shard is
made whole by one worker, and is a pure function of config, seed and input.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator

import apache_beam as beam
import cv2
import ml_collections
import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.pvalue import AsList, AsSingleton

from preprocess import files, plan, progress, splits
from preprocess.errors import UserError
from preprocess.info import (
    Facts,
    Inspection,
    dataset_info,
    gather_facts,
    inspect,
    tiles_expected,
)
from preprocess.memory import keep_freed_memory, room_for
from preprocess.plan import Unit
from preprocess.progress import FRAMES, TILES, Stopwatch
from preprocess.records import UNLABELLED, encode, weight_step
from preprocess.render import load, tiles_of_unit
from preprocess.shards import (
    INFO_NAME,
    Shard,
    as_json,
    fingerprint,
    kept_shard,
    sha256_of,
    shard_files,
    shard_name,
    write_shard,
    write_sidecar,
)
from preprocess.sources import Frame, look_for_frames
from preprocess.statistics import count_values

PROBLEMS_NAME = files.TEMPORARY + "problems.json"
NAMESPACE = "preprocess"  # of all counters


def build(
    pipeline: beam.Pipeline,
    folder: str,
    output: str,
    config: ml_collections.ConfigDict,
    *,
    parts: int = 1,
) -> None:
    """Adds the whole job to a pipeline.

    Args:
      folder: the data set's, local or remote.
      output: where the shards go.
      config: the whole config.
      parts: into how many the plan is cut at its source, for a runner that has no
        more partitions later than it had there (Dask's).
    """
    sources = [(folder, part, parts) for part in range(parts)]
    units = pipeline | beam.Create(sources) | PlanUnits(config)
    inspections = units | InspectFrames(config, output)
    digests = units | DigestSources()
    facts = (
        pipeline
        | "Once" >> beam.Create([None])
        | "Facts"
        >> beam.Map(
            _facts, AsList(inspections), AsList(digests), folder, output, config
        )
    )
    shards = units | WriteShards(config, output, AsSingleton(facts))
    (
        pipeline
        | "AtTheEnd" >> beam.Create([None])
        | "Info"
        >> beam.Map(
            write_info,
            AsList(shards),
            AsList(inspections),
            AsList(digests),
            AsSingleton(facts),
            folder=folder,
            output=output,
            config=config,
        )
    )


def _facts(_, inspections, digests, folder, output, config) -> Facts:
    strays = look_for_frames(config.data, folder).problems
    facts = gather_facts(inspections, digests, strays, config, folder=folder)
    if not facts.problems:
        progress.expect(output, TILES, tiles_expected(inspections, config))
    return facts


def plan_dataset(folder: str, config: ml_collections.ConfigDict) -> list[Unit]:
    """All units of all splits of the data set in a folder.

    Raises:
      UserError: no frames, or no splits as the config wants them. Files that belong to
        no frame are reported together with what is wrong in the frames.
    """
    found = look_for_frames(config.data, folder)
    if not found.frames:
        raise UserError(found.problems)
    try:
        frames = splits.assign_splits(found.frames, config.data.split)
    except UserError as error:
        raise UserError([*error.problems, *found.problems]) from error
    return [
        unit
        for split in splits.SPLITS
        for unit in plan.plan_units(
            [frame for frame in frames if frame.split == split],
            # Only training frames are augmented.
            augmentations=config.data.augmentations if split == "train" else 1,
            num_shards=config.data.num_shards,
            seed=config.seed,
        )
    ]


@dataclasses.dataclass
class PlanUnits(beam.PTransform):
    """(folder of a data set, part, of how many) to Units, spread over the workers."""

    config: ml_collections.ConfigDict

    def expand(self, sources):
        return (
            sources
            | "Plan" >> beam.FlatMap(_part_of_plan, self.config)
            # This must stay: it breaks fusion, or one worker would read all frames.
            | "Spread" >> beam.Reshuffle()
        )


def _part_of_plan(source: tuple[str, int, int], config) -> list[Unit]:
    folder, part, parts = source
    return plan_dataset(folder, config)[part::parts]


@dataclasses.dataclass
class InspectFrames(beam.PTransform):
    """Units to one Inspection per frame."""

    config: ml_collections.ConfigDict
    output: str

    def expand(self, units):
        return (
            units
            | "Frames" >> beam.FlatMap(_frame_once)
            | "Inspect" >> beam.ParDo(InspectFrame(self.config, self.output))
        )


class InspectFrame(beam.DoFn):
    """Reads a frame to the end, and counts it."""

    def __init__(self, config: ml_collections.ConfigDict, output: str):
        self.config = config
        self.output = output
        self.frames_inspected = Metrics.counter(NAMESPACE, "frames_inspected")
        self.inspect_msec = Metrics.counter(NAMESPACE, "inspect_msec")

    def process(self, frame: Frame):
        watch = Stopwatch()
        with room_for(frame), watch.stage("inspect"):
            found = inspect(frame, self.config)
        self.frames_inspected.inc()
        self.inspect_msec.inc(watch.msec("inspect"))
        progress.add(self.output, FRAMES, 1)
        yield found


def _frame_once(unit: Unit) -> Iterator:
    if unit.augmentation == 0:
        yield unit.frame


@dataclasses.dataclass
class DigestSources(beam.PTransform):
    """Units to (path, sha256) of every source file, each read once."""

    def expand(self, units):
        return (
            units
            | "Frames" >> beam.FlatMap(_frame_once)
            | "Paths" >> beam.FlatMap(lambda frame: [p.path for p in frame.pages])
            | "Distinct" >> beam.Distinct()
            | "Digest" >> beam.FlatMap(_digest_if_readable)
        )


def _digest_if_readable(path: str) -> Iterator[tuple[str, str]]:
    """A file that can't be read has no digest; its frame's inspection says why."""
    try:
        yield path, sha256_of(path)
    except OSError:
        return


@dataclasses.dataclass
class WriteShards(beam.PTransform):
    """Units to shard files; yields a Shard for each."""

    config: ml_collections.ConfigDict
    output: str
    facts: AsSingleton

    def expand(self, units):
        return (
            units
            | "ByShard" >> beam.Map(_with_shard)
            | "Group" >> beam.GroupByKey()
            | "Write" >> beam.ParDo(WriteShard(self.config, self.output), self.facts)
        )


def _with_shard(unit: Unit) -> tuple[tuple[int, int], Unit]:
    """Keyed by numbers alone: Dask hashes keys, and words differ from process to
    process.
    """
    return (splits.SPLITS.index(unit.frame.split), unit.shard), unit


class WriteShard(beam.DoFn):
    """Makes one shard from its units, holding one frame and one window at a time."""

    STAGES = ("read", "render", "encode", "write")

    def __init__(self, config: ml_collections.ConfigDict, output: str):
        self.config = config
        self.output = output
        self.tiles_written = Metrics.counter(NAMESPACE, "tiles_written")
        self.shards_kept = Metrics.counter(NAMESPACE, "shards_kept")
        self.msec = {
            stage: Metrics.counter(NAMESPACE, f"{stage}_msec") for stage in self.STAGES
        }

    def setup(self):
        # The workers are the parallelism; threads within each would only wait.
        cv2.setNumThreads(1)
        keep_freed_memory()

    def process(self, element, facts: Facts):
        # From a data set with problems nothing is made: write_info lists them.
        if not facts.problems:
            (split, index), units = element
            yield self._finished(splits.SPLITS[split], index, units, facts)

    def _finished(
        self, split: str, index: int, grouped: Iterable[Unit], facts: Facts
    ) -> Shard:
        """An earlier run's shard where it is whole, else a new one."""
        units = plan.in_order(grouped, self.config.seed)
        kept = [unit for unit in units if unit.frame.key not in facts.skipped]
        name = shard_name(split, index, units[0].num_shards)
        made_from = fingerprint([facts.digest, [unit.key for unit in kept]])
        if shard := kept_shard(self.output, name, made_from):
            self.shards_kept.inc()
            progress.add(self.output, TILES, shard.records)
            return shard
        watch = Stopwatch()
        class_pixels = np.zeros(UNLABELLED + 1, np.int64)
        path = files.join(self.output, name)
        written = write_shard(path, self._records(kept, facts, class_pixels, watch))
        classes = class_pixels[: self.config.model.classes].tolist()
        shard = Shard(split, name, *written, tuple(classes), made_from)
        write_sidecar(self.output, shard)
        watch.rest("write")
        for stage, counter in self.msec.items():
            counter.inc(watch.msec(stage))
        return shard

    def _records(
        self,
        units: Iterable[Unit],
        facts: Facts,
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


def write_info(
    _,
    shards: list[Shard],
    inspections: list[Inspection],
    digests: list[tuple[str, str]],
    facts: Facts,
    *,
    folder: str,
    output: str,
    config: ml_collections.ConfigDict,
) -> None:
    """Writes `dataset_info.json`, which says complete, or the list of problems."""
    if facts.problems:
        path = files.join(output, PROBLEMS_NAME)
        files.write_bytes(path, as_json(list(facts.problems)))
        return
    info = dataset_info(
        shards, inspections, dict(digests), facts, folder=folder, config=config
    )
    own = {shard.name for shard in shards}
    files.remove(  # shards of a plan that an interrupted run had, with other frames
        [path for path in shard_files(output) if files.basename(path) not in own]
    )
    files.write_bytes(files.join(output, INFO_NAME), as_json(info))
    # Notes of finished shards, and halves that a killed run has left; not the counts
    # that a bar still follows.
    left = files.glob_in(output, files.TEMPORARY + "*")
    files.remove([path for path in left if not path.endswith(progress.ENDING)])
