"""The Beam job's first half: what the frames are, before anything is made of them."""

import functools

import apache_beam as beam
import ml_collections
from apache_beam.metrics import Metrics
from apache_beam.pvalue import AsList

from preprocess import inspection
from preprocess.beam import progress
from preprocess.beam.progress import FRAMES, TILES, Stopwatch
from preprocess.inspection import DatasetSummary, FrameTotals, Inspection, inspect
from preprocess.worker_memory import room_for
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.images import formats
from unet_tfrecords.dataset.images.frames import Frame
from unet_tfrecords.dataset.images.pages import Page, check_unchanged

MOST_DIGESTS = 10_000  # that a worker remembers, about 300 bytes each


@beam.ptransform_fn
def InspectFrames(frames, *, config, output: str):
    """Frames to an Inspection each."""
    return frames | "Inspect" >> beam.ParDo(InspectFrame(config, output))


class InspectFrame(beam.DoFn):
    """Reads a frame to the end, and counts it."""

    def __init__(self, config: ml_collections.ConfigDict, output: str):
        self.config = config
        self.output = output
        self.frames_inspected = Metrics.counter(progress.NAMESPACE, "frames_inspected")
        self.inspect_msec = Metrics.counter(progress.NAMESPACE, "inspect_msec")

    def setup(self):
        # A stack's once in each worker, which reads it whole anyway.
        self.digest = functools.lru_cache(MOST_DIGESTS)(_sha256_if_readable)

    def process(self, frame: Frame):
        watch = Stopwatch()
        with watch.stage("inspect"):
            pages = (
                page if page.window else page._replace(number=0) for page in frame.pages
            )
            digests = tuple(map(self.digest, pages))
            with room_for(frame):
                found = inspect(frame, self.config)._replace(digests=digests)
        self.frames_inspected.inc()
        self.inspect_msec.inc(watch.msec("inspect"))
        progress.add(self.output, FRAMES, 1)
        yield found


def _sha256_if_readable(page: Page) -> str:
    """A file that can't be read has no digest; its frame's inspection says why."""
    try:
        digest = formats.digest_of(page)
        check_unchanged(page)
    except (OSError, UserError):
        return ""
    return digest


@beam.ptransform_fn
def SumUp(sources, *, config, folder: str, output: str, strays: list[str]):
    """Sources to the one DatasetSummary."""
    copies = (
        sources
        | "Good" >> beam.Filter(lambda s: s.pixels)
        | "SameContent" >> beam.GroupBy(_content_of)
        | "Copies" >> beam.FlatMap(lambda e: inspection.copies_in(e[1]))
    )
    return (
        sources
        | "Totals" >> beam.Map(lambda s: (0, inspection.totals_of(s, config, folder)))
        | "Sum" >> beam.CombinePerKey(AddUp())
        | "Conclude" >> beam.Map(_concluded, AsList(copies), strays, config, output)
    )


class AddUp(beam.CombineFn):
    """Totals of frames, added in place: those of many bad frames are large."""

    def create_accumulator(self) -> FrameTotals:
        return FrameTotals()

    def add_input(self, accumulator: FrameTotals, element: FrameTotals) -> FrameTotals:
        accumulator.add(element)
        return accumulator

    def merge_accumulators(self, accumulators) -> FrameTotals:
        first, *others = accumulators
        for other in others:
            first.add(other)
        return first

    def extract_output(self, accumulator: FrameTotals) -> FrameTotals:
        return accumulator


def _content_of(source: Inspection) -> int:
    return int(source.pixels[:15], 16)


def _concluded(
    element: tuple[int, FrameTotals],
    copies: list[str],
    strays: list[str],
    config: ml_collections.ConfigDict,
    output: str,
) -> DatasetSummary:
    facts = inspection.conclude(element[1], copies, strays, config)
    if not facts.problems:
        progress.expect(output, TILES, facts.tiles)
    return facts
