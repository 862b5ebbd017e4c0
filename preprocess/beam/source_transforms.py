"""The Beam job's first half: what the frames are, before anything is made of them."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import ml_collections
from apache_beam.metrics import Metrics
from apache_beam.pvalue import AsList

from preprocess import inspection as facts_module
from preprocess import plan
from preprocess.beam import progress
from preprocess.beam.progress import FRAMES, TILES, Stopwatch
from preprocess.inspection import DatasetSummary, FrameTotals, InspectedFrame, inspect
from preprocess.worker_memory import room_for
from unet_tfrecords.dataset.images.formats import Page, check_unchanged
from unet_tfrecords.dataset.images.frames import Frame
from unet_tfrecords.storage import files


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
        self.frames_inspected = Metrics.counter(progress.NAMESPACE, "frames_inspected")
        self.inspect_msec = Metrics.counter(progress.NAMESPACE, "inspect_msec")

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


def _with_path(frame: Frame) -> Iterator[tuple[int, tuple[Page, str]]]:
    for page in {page._replace(number=0) for page in frame.pages}:
        yield plan.group_number(page.path), (page, frame.key)


def _digested(
    element: tuple[int, Iterable[tuple[Page, str]]],
) -> Iterator[tuple[int, tuple[str, str, str]]]:
    """A file that can't be read has no digest; its frame's inspection says why."""
    digests: dict[str, str] = {}
    for page, key in element[1]:
        path = page.path
        if path not in digests:
            digests[path] = _sha256_if_readable(page)
        yield plan.group_number(key), (key, path, digests[path])


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
            lambda found: (plan.group_number(found.frame.key), found)
        )
        return (
            {"inspections": keyed, "digests": digests}
            | "Join" >> beam.CoGroupByKey()
            | "Sources" >> beam.FlatMap(_joined)
        )


def _joined(element: tuple[int, dict[str, Iterable[Any]]]) -> Iterator[InspectedFrame]:
    there = {(key, path): digest for key, path, digest in element[1]["digests"]}
    for found in element[1]["inspections"]:
        frame = found.frame
        yield InspectedFrame(
            found, tuple(there[frame.key, p.path] for p in frame.pages)
        )


@dataclasses.dataclass
class SumUp(beam.PTransform):
    """Sources to the one DatasetSummary."""

    config: ml_collections.ConfigDict
    folder: str
    output: str
    strays: list[str]

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
            | "Sum" >> beam.CombinePerKey(SumSources(self.config, self.folder))
            | "Conclude"
            >> beam.Map(
                _concluded, AsList(copies), self.strays, self.config, self.output
            )
        )


def _with_content(
    source: InspectedFrame,
) -> Iterator[tuple[tuple[int, int], InspectedFrame]]:
    digest, page = source.digests[0], source.found.frame.image.number
    if digest and not source.found.problems:
        yield (int(digest[:15], 16), page), source


def _concluded(
    element: tuple[int, FrameTotals],
    copies: list[str],
    strays: list[str],
    config: ml_collections.ConfigDict,
    output: str,
) -> DatasetSummary:
    facts = facts_module.conclude(element[1], copies, strays, config)
    if not facts.problems:
        progress.expect(output, TILES, facts.tiles)
    return facts


class SumSources(beam.CombineFn):
    """Adds Sources up, wherever they are."""

    def __init__(self, config: ml_collections.ConfigDict, folder: str):
        self.config = config
        self.folder = folder

    def create_accumulator(self) -> FrameTotals:
        return FrameTotals()

    def add_input(self, sums: FrameTotals, source: InspectedFrame) -> FrameTotals:
        sums.add(source, self.config, self.folder)
        return sums

    def merge_accumulators(self, accumulators: Iterable[FrameTotals]) -> FrameTotals:
        total = FrameTotals()
        for sums in accumulators:
            total.merge(sums)
        return total

    def extract_output(self, sums: FrameTotals) -> FrameTotals:
        return sums
