"""The Beam job. Its transforms only wire; what they call does the thinking.

    plan ─┬─ frames ─ InspectFrames ─ sources ─┬─ SumUp ── facts ─┐ (side input)
          │                                    └─ entries ──────┐ ▼
          └─ units ─────── group by shard ───────── WriteShards ┴── WriteInfo

What is shuffled is the plan, some hundred bytes a unit, never the pixels: each shard is
made whole by one worker, and is a pure function of config, seed and input. No worker
holds the whole plan, nor what is known of all frames.
"""

import uuid
from typing import Any, NamedTuple

import apache_beam as beam
import ml_collections
from apache_beam.pvalue import AsList, AsSingleton

from preprocess import plan
from preprocess.beam import progress
from preprocess.beam.shard_transforms import WriteShards, WriteSources
from preprocess.beam.source_transforms import InspectFrames, SumUp
from preprocess.describe import describe, skipped_of, source_of, stray_of
from preprocess.inspection import DatasetSummary
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset import tfds_files
from unet_tfrecords.dataset.dataset_info import Shard, Skipped, Source, SourcePart
from unet_tfrecords.dataset.images.frames import FrameListing
from unet_tfrecords.dataset.shards import parts_for, shard_files
from unet_tfrecords.storage import files, json_files

PROBLEMS_NAME = files.TEMPORARY + "problems.json"


class PreprocessJob(NamedTuple):
    """What is made of what.

    Attributes:
      folder: the data set's, local or remote.
      output: where the shards go.
      config: the whole config.
      plan_files: what `plan.write_plan` has written.
      frames: how many those hold.
      strays: files that belong to no frame, a line each.
      unlabelled: images that nobody labelled.
      labels_reason: why masks are read as they are.
    """

    folder: str
    output: str
    config: ml_collections.ConfigDict
    plan_files: list[str]
    frames: int
    strays: list[str]
    unlabelled: int
    labels_reason: str = ""


def prepare(
    folder: str,
    output: str,
    config: ml_collections.ConfigDict,
    planned: FrameListing,
    parts: int = 1,
) -> PreprocessJob:
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
    return PreprocessJob(
        folder,
        output,
        config,
        written,
        frames,
        planned.problems,
        planned.unlabelled,
        planned.labels_reason,
    )


@beam.ptransform_fn
def ReadPlan(paths):
    """Files of a plan to PlannedFrames, spread over the workers."""
    # Reshuffle must stay: it breaks fusion, or one worker would read all frames.
    return paths | "Read" >> beam.FlatMap(plan.read_plan) | "Spread" >> beam.Reshuffle()


def build(pipeline: beam.Pipeline, job: PreprocessJob) -> None:
    """Adds the whole job to a pipeline."""
    planned = pipeline | beam.Create(job.plan_files) | ReadPlan()
    frames = planned | "Frames" >> beam.Map(lambda each: each.frame)
    sources = frames | InspectFrames(config=job.config, output=job.output)
    facts = sources | SumUp(
        config=job.config, folder=job.folder, output=job.output, strays=job.strays
    )
    units = planned | "Units" >> beam.FlatMap(lambda each: each.units())
    shards = units | WriteShards(
        config=job.config, output=job.output, facts=AsSingleton(facts)
    )
    good = sources | "Good" >> beam.Filter(lambda source: not source.problems)
    bad = sources | "Bad" >> beam.Filter(lambda source: bool(source.problems))
    entries = good | "Entries" >> beam.Map(source_of, job.folder)
    parts = parts_for(job.frames)
    if parts:
        parted = entries | WriteSources(
            output=job.output, parts=parts, facts=AsSingleton(facts)
        )
        entries = pipeline | "NoEntries" >> beam.Create([])
    else:
        parted = pipeline | "NoParts" >> beam.Create([])
    skipped = bad | "Skipped" >> beam.Map(skipped_of, job.folder)
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


def write_info(
    _,
    shards: list[Shard],
    entries: list[Source],
    parts: list[SourcePart],
    skipped: list[Skipped],
    facts: DatasetSummary,
    job: PreprocessJob,
) -> None:
    """Writes `dataset_info.json`, which says complete, or the list of problems."""
    output = job.output
    if facts.problems:
        path = files.join(output, PROBLEMS_NAME)
        json_files.write(path, list(facts.problems))
        return
    info = describe(
        shards,
        entries,
        parts,
        skipped + [stray_of(line, job.folder) for line in job.strays],
        facts,
        unlabelled=job.unlabelled,
        labels_reason=job.labels_reason,
        config=job.config,
    )
    own = {shard.name for shard in shards} | {part.name for part in parts}
    files.remove(  # shards of a plan that an interrupted run had, with other frames
        [path for path in shard_files(output) if files.basename(path) not in own]
    )
    _check_there(output, [*shards, *parts])
    tfds_files.write(output, info)
    info.write(output)
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
