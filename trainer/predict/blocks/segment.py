"""An image block by block: from pixels to masks, instances and tables of any size.

Steps, of which each needs the one before of all blocks; see `blockwise` for instances.
The network's outputs are kept in 65,535 steps: a pixel that is as near as that to a
threshold may fall on the other side of it than in one piece.
"""

import contextlib
import functools
import os
import queue
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from trainer.export import artefact_layout
from trainer.inference import blockwise, numpy_segmenter
from trainer.inference.blockwise import Grid, Holes, Parted, Survey, WindowSource
from trainer.inference.instances import TOP, Outputs, classes_of
from trainer.predict import object_table, outlines
from trainer.predict.blocks import results
from trainer.predict.blocks.pyramids import Pyramid
from trainer.predict.blocks.results import Setup
from trainer.predict.blocks.scratch import Scratch
from trainer.predict.blocks.windowed_image import WindowedImage
from trainer.predict.inputs import Job
from trainer.predict.runtimes import Runtime, TileMoments
from unet_tfrecords.command.errors import warn
from unet_tfrecords.dataset import pixel_statistics
from unet_tfrecords.dataset.pixel_statistics import Moments
from unet_tfrecords.dataset.regions import Box

MOST_THREADS = 8  # each takes some hundred MB
AHEAD = 2  # blocks that are read or written while a device is busy
LARGE_PIECE_PX = 2**23  # from here on one at a time is parted: some 30 bytes a pixel
KEPT = 16  # blocks' objects in memory, where others are put together from them


def segment(job: Job, setup: Setup, scratch: Scratch) -> None:
    """Makes the outputs of an image.

    Args:
      job: the image.
      setup: of the run.
      scratch: what there is of it from earlier runs, and from other processes.

    Raises:
      UserError: it can't be read, or outputs not be written.
      DoneElsewhere: other processes have finished it.
    """
    steps = _Steps(job, setup, scratch)
    steps.remove_old()
    steps.read_intensities()
    steps.run_network()
    number = steps.find_instances() if setup.choice.wants_instances else 0
    pyramids = steps.write_labels(number)
    steps.measure(pyramids)
    steps.write_files(pyramids)


class _Steps:
    """The steps of one image, in order."""

    def __init__(self, job: Job, setup: Setup, scratch: Scratch):
        self.job, self.setup, self.scratch = job, setup, scratch
        about, choice = setup.about, setup.choice
        self.rules = choice.rules
        self.pixels = WindowedImage(job, about["channels"], choice.selected_channels)
        self.grid = Grid(*self.pixels.size, setup.block_px)
        self.blocks = range(self.grid.rows * self.grid.columns)
        self.chunk_px = results.chunk_px(setup.block_px)
        self.classes, self.planes = about["classes"], artefact_layout.planes_of(about)
        kept = self.classes - 1 + self.planes
        self.made = scratch.array(
            "outputs", (kept, *self.pixels.size), np.uint16, self.chunk_px
        )
        self.source = WindowSource(self.outputs_in, self.planes)
        self.threads = min(MOST_THREADS, len(os.sched_getaffinity(0)))

    def each(self, step: str, work: Callable[[int], Any], **how: Any) -> None:
        """A step of all blocks."""
        self.scratch.each(step, self.blocks, work, **{"threads": self.threads, **how})

    def remove_old(self) -> None:
        """Removes outputs of before: once, before any are written."""
        paths = results.paths_of(self.job, self.setup.choice, self.setup.output)

        def remove(_: int) -> None:
            for path in paths:
                results.remove(path)

        self.scratch.each("preparing", range(1), remove)

    def read_intensities(self) -> None:
        """Sums up the image, where the model normalises each by its own intensities."""
        self.normal: TileMoments | None = None
        self.offset = np.zeros(self.setup.about["channels"], np.float32)
        if self.setup.about["normalization"]:
            return
        self.each(
            "reading",
            lambda n: pixel_statistics.moments(self.pixels.box(self.grid.box(n))),
        )
        parts = self.scratch.results("reading", len(self.blocks), Moments)
        found = pixel_statistics.pooled(parts)
        # float32 would round away a small contrast far from 0.
        self.offset = np.rint(found.mean).astype(np.float32)
        mean = (found.mean - self.offset).astype(np.float32)
        self.normal = TileMoments(mean, found.std.astype(np.float32))

    def run_network(self) -> None:
        """Keeps the network's outputs."""
        free: queue.SimpleQueue[Runtime] = queue.SimpleQueue()
        for runtime in self.setup.loaded:
            free.put(runtime)

        def of_tile(tile: np.ndarray) -> np.ndarray:
            runtime = free.get()
            try:
                return runtime.segment_tile(tile, self.normal)
            finally:
                free.put(runtime)

        def read(rows: slice, columns: slice) -> np.ndarray:
            return self.pixels.read(rows, columns).astype(np.float32) - self.offset

        def work(number: int) -> None:
            box = self.grid.box(number)
            found = numpy_segmenter.segment_window(
                read,
                box,
                self.pixels.size,
                of_tile,
                depth=self.setup.about["depth"],
                tile=self.setup.about["tile"],
                tta=self.setup.tta,
            )
            self.keep(box, found)

        self.each("segmenting", work, threads=len(self.setup.loaded) + AHEAD)

    def keep(self, box: Box, found: np.ndarray) -> None:
        """Keeps the network's outputs [h, w, K + P] of a window of whole chunks."""
        # Background's probability is what the others leave.
        steps = np.rint(np.clip(found[..., 1:], 0, 1) * TOP).astype(np.uint16)
        self.made[:, box[0] : box[2], box[1] : box[3]] = np.moveaxis(steps, -1, 0)

    def outputs_in(self, box: Box) -> Outputs:
        """The network's outputs of a window, as they are kept."""
        steps = np.asarray(self.made[:, box[0] : box[2], box[1] : box[3]])
        foreground = steps[: self.classes - 1]
        left = TOP - foreground.sum(0, dtype=np.int32)
        probabilities = np.empty((*left.shape, self.classes), np.float32)
        probabilities[..., 0] = np.maximum(left, 0) / np.float32(TOP)
        probabilities[..., 1:] = np.moveaxis(foreground, 0, -1) / np.float32(TOP)
        if not self.planes:
            return Outputs(probabilities)
        planes = np.moveaxis(steps[self.classes - 1 :], 0, -1) / np.float32(TOP)
        return Outputs(probabilities, np.ascontiguousarray(planes))

    def find_instances(self) -> int:
        """Numbers the instances, in an array of its own; returns how many there are."""
        grid, source, rules = self.grid, self.source, self.rules
        self.each("pieces", lambda n: blockwise.survey(grid, n, source, rules))
        surveys = self.scratch.results("pieces", len(self.blocks), Survey)
        pieces = blockwise.joined(grid, surveys)
        del surveys
        one_large = threading.Lock()

        def part(number: int) -> Parted:
            boxes = pieces.boxes[pieces.owners == number]
            areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
            is_large = areas.max(initial=0) > LARGE_PIECE_PX
            with one_large if is_large else contextlib.nullcontext():
                return blockwise.part(grid, number, pieces, source, rules)

        self.each("objects", part)

        @functools.lru_cache(KEPT)
        def parted(number: int) -> Parted:
            return self.scratch.result("objects", number, Parted)

        counts, large = [], []
        for number in self.blocks:
            found = self.scratch.result("objects", number, Parted)
            counts.append(found.number)
            large += found.too_large
        self._report(large, pieces)
        firsts = blockwise.first_numbers(counts)
        owners = blockwise.contributors(grid, pieces)
        joined = self._labels("joined")

        def assemble(number: int) -> None:
            of_owners = {owner: parted(owner) for owner in owners[number]}
            joined.write(
                grid.box(number),
                blockwise.assemble(
                    grid, number, pieces, of_owners, firsts, source, rules
                ),
            )

        self.each("joining", assemble)
        self.labels = joined
        if rules.fill_holes:
            self.each("holes", lambda n: blockwise.holes(grid, n, joined.read))
            listed = self.scratch.results("holes", len(self.blocks), Holes)
            fills = blockwise.fillings(grid, listed)
            del listed
            filled = self.labels = self._labels("filled")

            def fill(number: int) -> None:
                box = grid.box(number)
                filled.write(box, blockwise.filled(joined.read(box), fills[number]))

            self.each("filling", fill)
        return sum(counts)

    def _labels(self, name: str) -> Pyramid:
        return results.open_labels(self.scratch, name, self.grid, self.chunk_px)

    def _report(self, large: list[int], pieces: blockwise.Pieces) -> None:
        for piece in large:
            top, left, bottom, right = pieces.boxes[piece].tolist()
            warn(
                f"{self.job.page}: rows {top} to {bottom}, columns {left} to {right} "
                f"are one piece, too large to be parted in memory "
                f"({blockwise.MOST_PX / 1e6:.0f} Mpx at most): it is kept as one object"
            )

    def write_labels(self, number: int) -> dict[str, Pyramid]:
        """Writes classes and instances at all resolutions; returns them by kind."""
        pyramids = results.open_pyramids(
            self.job, self.setup, self.scratch, self.pixels.size, number
        )

        def work(block: int) -> None:
            box = self.grid.box(block)
            probabilities = self.outputs_in(box).probabilities
            pyramids[results.MASK].write(
                box, classes_of(probabilities, self.rules.threshold)
            )
            if results.INSTANCES in pyramids:
                to = pyramids[results.INSTANCES]
                found = blockwise.finish(self.grid, block, self.labels.read, self.rules)
                to.write(box, found.astype(to.dtype))

        self.each("writing", work)
        for level in range(1, len(pyramids[results.MASK].sizes)):
            grid = pyramids[results.MASK].grid(level, self.setup.block_px)

            def reduce(block: int, level: int = level, grid: Grid = grid) -> None:
                for pyramid in pyramids.values():
                    pyramid.reduce(level, grid.box(block))

            blocks = range(grid.rows * grid.columns)
            step = f"resolution {level}"
            self.scratch.each(step, blocks, reduce, threads=self.threads)
        return pyramids

    def measure(self, pyramids: dict[str, Pyramid]) -> None:
        """Measures and outlines objects, and reduces the image to look at."""
        choice = self.setup.choice
        factor = results.overview_factor(self.pixels.size, self.setup.block_px)

        def work(number: int) -> results.Seen:
            box = self.grid.box(number)
            image = self.pixels.box(box)[..., : self.pixels.own]
            seen = results.Seen(picture=results.reduced(image, factor))
            if results.INSTANCES not in pyramids:
                return seen
            labels = pyramids[results.INSTANCES].read(box).astype(np.int32)
            if choice.table:
                probabilities = self.outputs_in(box).probabilities
                seen = seen._replace(
                    measures=object_table.measured(
                        labels, self.pixels.stored(box), probabilities, box[:2]
                    )
                )
            if choice.geojson or choice.rois:
                found = outlines.outlines(labels, box[:2])
                seen = seen._replace(outlines=results.as_wkb(found))
            return seen

        if choice.overlays or choice.table or choice.geojson or choice.rois:
            self.each("measuring", work)

    def write_files(self, pyramids: dict[str, Pyramid]) -> None:
        """Writes what is one file of the whole image."""
        todo = results.Files(
            self.job,
            self.setup,
            pyramids,
            lambda: (
                self.scratch.result("measuring", number, results.Seen)
                for number in self.blocks
            ),
            self.outputs_in,
            self.grid,
        ).writers()
        self.scratch.each("files", range(len(todo)), lambda number: todo[number]())
