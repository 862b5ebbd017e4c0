"""The Beam job. Its transforms only wire; what they call does the thinking.

    plan ─┬─ frames ─┬─ InspectFrames ─┬─ sources ─┬─ SumUp ── facts ─┐ (side input)
          │          └─ DigestFiles ───┘           └─ entries ──────┐ ▼
          └─ units ──────── group by shard ──────────── WriteShards ┴── WriteInfo

What is shuffled is the plan, some hundred bytes a unit, never the pixels: each shard is
made whole by one worker, and is a pure function of config, seed and input. No worker
holds the whole plan, nor what is known of all frames.
"""

import dataclasses
import itertools
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import cv2
import ml_collections
import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.pvalue import AsList, AsSingleton

from preprocess import facts as facts_module
from preprocess import files, info, json_files, plan, progress, splits
from preprocess.errors import UserError
from preprocess.facts import Facts, Source, Sums, inspect
from preprocess.images import Page, check_unchanged
from preprocess.memory import keep_freed_memory, room_for
from preprocess.plan import Unit
from preprocess.progress import FRAMES, TILES, Stopwatch
from preprocess.records import UNLABELLED, encode, weight_step
from preprocess.render import load, tiles_of_unit
from preprocess.shards import (
    INFO_NAME,
    Shard,
    SourcePart,
    kept_shard,
    parts_for,
    shard_files,
    shard_name,
    write_shard,
    write_sidecar,
    write_sources,
)
from preprocess.sources import Frame
from preprocess.statistics import count_values

PROBLEMS_NAME = files.TEMPORARY + "problems.json"
NAMESPACE = "preprocess"  # of all counters


class Job(NamedTuple):
    """What is made of what.

    Attributes:
      folder: the data set's, local or remote.
      output: where the shards go.
      config: the whole config.
      plan_files: what `plan.write_plan` has written.
      frames: how many those hold.
      strays: files that belong to no frame, a line each.
      unlabelled: images that nobody labelled.
    """

    folder: str
    output: str
    config: ml_collections.ConfigDict
    plan_files: list[str]
    frames: int
    strays: list[str]
    unlabelled: int


def prepare(
    folder: str,
    output: str,
    config: ml_collections.ConfigDict,
    planned: plan.Plan,
    parts: int = 1,
) -> Job:
    """Writes a plan into the folder of the shards.

    Args:
      planned: of the data set in `folder`.
      parts: into how many the plan is cut at least, for a runner that has no more
        partitions later than it had at the source (Dask's).
    """
    frames = len(planned.frames)
    written = plan.write_plan(
        output,
        plan.plan_all(planned.frames, config),
        frames,
        parts,
        job=f"-{uuid.uuid4().hex[:8]}",
    )
    return Job(
        folder, output, config, written, frames, planned.strays, planned.unlabelled
    )


def build(pipeline: beam.Pipeline, job: Job) -> None:
    """Adds the whole job to a pipeline."""
    planned = pipeline | beam.Create(job.plan_files) | ReadPlan()
    frames = planned | "Frames" >> beam.Map(lambda each: each.frame)
    sources = (
        frames | InspectFrames(job.config, job.output),
        frames | DigestFiles(),
    ) | JoinSources()
    facts = sources | SumUp(job)
    units = planned | "Units" >> beam.FlatMap(lambda each: each.units())
    shards = units | WriteShards(job.config, job.output, AsSingleton(facts))
    good, bad = (
        sources | name >> beam.Filter(lambda s, bad: bool(s.found.problems) is bad, bad)
        for name, bad in (("Good", False), ("Bad", True))
    )
    entries = good | "Entries" >> beam.Map(info.source_info, job.folder)
    parts = parts_for(job.frames)
    if parts:
        parted = entries | WriteSources(job.output, parts, AsSingleton(facts))
        entries = pipeline | "NoEntries" >> beam.Create([])
    else:
        parted = pipeline | "NoParts" >> beam.Create([])
    skipped = bad | "Skipped" >> beam.Map(info.skipped_info, job.folder)
    (
        pipeline
        | "AtTheEnd" >> beam.Create([None])
        | "Info"
        >> beam.Map(
            write_info,
            AsList(shards),
            AsList(entries),
            AsList(parted),
            AsList(skipped),
            AsSingleton(facts),
            job,
        )
    )


class ReadPlan(beam.PTransform):
    """Files of a plan to PlannedFrames, spread over the workers."""

    def expand(self, paths):
        return (
            paths
            | "Read" >> beam.FlatMap(plan.read_plan)
            # This must stay: it breaks fusion, or one worker would read all frames.
            | "Spread" >> beam.Reshuffle()
        )


@dataclasses.dataclass
class InspectFrames(beam.PTransform):
    """Frames to an Inspection each."""

    config: ml_collections.ConfigDict
    output: str

    def expand(self, frames):
        return frames | "Inspect" >> beam.ParDo(InspectFrame(self.config, self.output))


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


class DigestFiles(beam.PTransform):
    """Frames to (frame's key, path, sha256) of their files, each of which is read once.

    By the number of the frame's key.
    """

    def expand(self, frames):
        return (
            frames
            | "Paths" >> beam.FlatMap(_with_path)
            | "ByPath" >> beam.GroupByKey()
            | "Digest" >> beam.FlatMap(_digested)
        )


def _number(identity: str) -> int:
    """What things are grouped by: Dask hashes keys, and Python's hashes of words differ
    from process to process. Two words may come to one number, so words are compared
    within each group.
    """
    return plan.identity_seed(identity, 0) >> 1  # as Beam encodes numbers: below 2**63


def _with_path(frame: Frame) -> Iterator[tuple[int, tuple[Page, str]]]:
    for page in {page._replace(number=0) for page in frame.pages}:
        yield _number(page.path), (page, frame.key)


def _digested(
    element: tuple[int, Iterable[tuple[Page, str]]],
) -> Iterator[tuple[int, tuple[str, str, str]]]:
    """A file that can't be read has no digest; its frame's inspection says why."""
    digests: dict[str, str] = {}
    for page, key in element[1]:
        path = page.path
        if path not in digests:
            digests[path] = _sha256_if_readable(page)
        yield _number(key), (key, path, digests[path])


def _sha256_if_readable(page: Page) -> str:
    try:
        digest = files.sha256_of(page.path)
        check_unchanged(page)
    except OSError:
        return ""
    return digest


class JoinSources(beam.PTransform):
    """Inspections, and digests by frame, to Sources."""

    def expand(self, both):
        inspections, digests = both
        keyed = inspections | "ByFrame" >> beam.Map(
            lambda found: (_number(found.frame.key), found)
        )
        return (
            {"inspections": keyed, "digests": digests}
            | "Join" >> beam.CoGroupByKey()
            | "Sources" >> beam.FlatMap(_joined)
        )


def _joined(element: tuple[int, dict[str, Iterable[Any]]]) -> Iterator[Source]:
    there = {(key, path): digest for key, path, digest in element[1]["digests"]}
    for found in element[1]["inspections"]:
        frame = found.frame
        yield Source(found, tuple(there[frame.key, p.path] for p in frame.pages))


@dataclasses.dataclass
class SumUp(beam.PTransform):
    """Sources to the one Facts."""

    job: Job

    def expand(self, sources):
        copies = (
            sources
            | "ByContent" >> beam.FlatMap(_with_content)
            | "SameContent" >> beam.GroupByKey()
            | "Copies" >> beam.FlatMap(lambda e: facts_module.copies_in(e[1]))
        )
        return (
            sources
            | "Together" >> beam.Map(lambda source: (0, source))
            | "Sum" >> beam.CombinePerKey(SumSources(self.job.config, self.job.folder))
            | "Conclude" >> beam.Map(_concluded, AsList(copies), self.job)
        )


def _with_content(source: Source) -> Iterator[tuple[tuple[int, int], Source]]:
    digest, page = source.digests[0], source.found.frame.image.number
    if digest and not source.found.problems:
        yield (int(digest[:15], 16), page), source


def _concluded(element: tuple[int, Sums], copies: list[str], job: Job) -> Facts:
    facts = facts_module.conclude(element[1], copies, job.strays, job.config)
    if not facts.problems:
        progress.expect(job.output, TILES, facts.tiles)
    return facts


class SumSources(beam.CombineFn):
    """Adds Sources up, wherever they are."""

    def __init__(self, config: ml_collections.ConfigDict, folder: str):
        self.config = config
        self.folder = folder

    def create_accumulator(self) -> Sums:
        return Sums()

    def add_input(self, sums: Sums, source: Source) -> Sums:
        sums.add(source, self.config, self.folder)
        return sums

    def merge_accumulators(self, accumulators: Iterable[Sums]) -> Sums:
        total = Sums()
        for sums in accumulators:
            total.merge(sums)
        return total

    def extract_output(self, sums: Sums) -> Sums:
        return sums


@dataclasses.dataclass
class WriteSources(beam.PTransform):
    """What is said of each frame, to files that say it of many; yields a SourcePart."""

    output: str
    parts: int
    facts: AsSingleton

    def expand(self, entries):
        write = beam.FlatMap(_part_written, self.facts, self.output, self.parts)
        return (
            entries
            | "ByPart" >> beam.Map(_with_part, self.parts)
            | "Parts" >> beam.GroupByKey()
            | "WriteParts" >> write
        )


def _with_part(entry: dict[str, Any], parts: int) -> tuple[int, dict[str, Any]]:
    return _number(entry["frame"]) % parts, entry


def _part_written(
    element, facts: Facts, output: str, parts: int
) -> Iterator[SourcePart]:
    if not facts.problems:
        index, entries = element
        yield write_sources(output, index, parts, entries)


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
            (split, index), grouped = element
            units = plan.in_order(grouped, self.config.seed)
            kept = [unit for unit in units if unit.frame.key not in facts.skipped]
            if kept:  # a shard whose frames are all bad is none
                yield self._finished(splits.SPLITS[split], index, kept, facts)

    def _finished(
        self, split: str, index: int, units: list[Unit], facts: Facts
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
    entries: list[dict[str, Any]],
    parts: list[SourcePart],
    skipped: list[dict[str, Any]],
    facts: Facts,
    job: Job,
) -> None:
    """Writes `dataset_info.json`, which says complete, or the list of problems."""
    output = job.output
    if facts.problems:
        path = files.join(output, PROBLEMS_NAME)
        json_files.write(path, list(facts.problems))
        return
    content = info.dataset_info(
        shards,
        entries,
        parts,
        skipped + [info.stray_info(line, job.folder) for line in job.strays],
        facts,
        unlabelled=job.unlabelled,
        config=job.config,
    )
    own = {shard.name for shard in shards} | {part.name for part in parts}
    files.remove(  # shards of a plan that an interrupted run had, with other frames
        [path for path in shard_files(output) if files.basename(path) not in own]
    )
    _check_there(output, [*shards, *parts])
    json_files.write(files.join(output, INFO_NAME), content)
    # The plan, notes of finished shards, and halves that a killed run has left; not the
    # counts that a bar still follows, nor the plan of another job on the same bucket.
    left = files.glob_in(output, files.TEMPORARY + "*")
    others = plan.PLAN_ENDING if files.is_remote(output) else "/"
    spared = {p for p in left if progress.is_count(p) or p.endswith(others)}
    files.remove([path for path in left if path not in spared - set(job.plan_files)])


def _check_there(output: str, written: list[Any]) -> None:
    """Sees that nobody has cleared the folder while the job ran.

    Raises:
      UserError: files that were written are gone, or others.
    """
    sizes = files.sizes_in(output)
    gone = [
        each.name
        for each in written
        if sizes.get(files.join(output, each.name)) != each.bytes
    ]
    if gone:
        raise UserError(
            f"{output}: gone or changed since they were written: "
            f"{', '.join(sorted(gone)[:9])}; run this again to go on"
        )
