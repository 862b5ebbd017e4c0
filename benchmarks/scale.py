"""What a plan of many frames costs: time, memory and bytes, with empty pixels.

    ./launch.sh benchmark --what=scale --frames 100000 10000000
    ./launch.sh benchmark --what=scale --frames=100000 --job

Frames are named as a Cell Tracking Challenge's in a bucket, a thousand to a sequence;
there are no files. With --job, Beam's local runner goes through the whole job, whose
frames are found to be of 512 x 512 px and whose shards hold nothing.
"""

import contextlib
import functools
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
import types

sys.path[0] = str(pathlib.Path(__file__).parent.parent)  # not this folder

from benchmarks.record import Record, parser_of, read, run
from configs import dic_hela
from preprocess import plan
from preprocess.beam import pipeline, shard_transforms, source_transforms
from preprocess.beam.runners import parse_options
from preprocess.inspection import Inspection
from unet_tfrecords.dataset.images import layouts
from unet_tfrecords.dataset.images.frames import Frame, FrameListing
from unet_tfrecords.dataset.images.pages import Page
from unet_tfrecords.dataset.pixel_statistics import Moments
from unet_tfrecords.dataset.shards import INFO_NAME
from unet_tfrecords.storage import files

BUCKET = "gs://bucket/raw"


def frame_of(index: int) -> Frame:
    """One of many frames."""
    sequence, number = f"{index // 1000:05d}", f"{index % 1000:03d}"
    pages = (
        Page(f"{BUCKET}/{sequence}/t{number}.tif"),
        Page(f"{BUCKET}/{sequence}_GT/SEG/man_seg{number}.tif"),
        Page(f"{BUCKET}/{sequence}_ST/SEG/man_seg{number}.tif"),
        Page(f"{BUCKET}/{sequence}_GT/TRA/man_track{number}.tif"),
    )
    return Frame("scale", sequence, f"t{number}", "empty", *pages)


def peak_gb() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


class Clock:
    """Says how long each step took, and what memory it left behind."""

    def __init__(self, frames: int) -> None:
        self.last = time.perf_counter()
        self.frames = {"at": frames, "of": "frames"}
        self.record = Record()

    def say(self, what: str) -> None:
        now = time.perf_counter()
        spent, peak = now - self.last, peak_gb()
        print(f"{what}: {spent:.1f} s, peak {peak:.2f} GB", flush=True)
        self.last = now

    def note(self, side: str, what: str) -> None:
        """Says it, and records it."""
        before = self.last
        self.say(what)
        spent, frames = self.last - before, self.frames
        self.record.add("time", side, [spent], unit="s", **frames)
        self.record.add("peak memory", side, [peak_gb()], unit="GB", **frames)


def empty_pixels(shards: list[str]) -> None:
    """Puts nothing in the place of all that reads and writes pixels."""

    def inspected(frame, config):
        return Inspection(frame, 512, 512, 8, (0, 1), Moments(1, (1,), (1,)))

    def digested(path):
        return plan.hashlib.sha256(path.encode()).hexdigest()

    def written(path, records):
        shards.append(path)
        return 0, 0, digested(path)

    files.sha256_of = digested
    source_transforms.inspect, shard_transforms.write_shard = inspected, written
    for module in (source_transforms, shard_transforms):
        module.room_for = contextlib.nullcontext
    shard_transforms.write_sidecar = lambda folder, shard: None


def grown(given, path: str) -> None:
    """Each number of frames in a process of its own, whose peak is its own."""
    merged = Record()
    with tempfile.TemporaryDirectory() as scratch:
        for frames in given.frames:
            part = os.path.join(scratch, "part.json")
            more = [f"--frames={frames}", f"--shards={given.shards}", f"--json={part}"]
            subprocess.run([sys.executable, __file__, *more], check=True)
            merged.rows += read(json.loads(pathlib.Path(part).read_text()))
    merged.write(path)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--frames", type=int, nargs="+", default=[1_000_000], help="how many"
    )
    parser.add_argument("--shards", type=int, default=1024, help="most of a split")
    parser.add_argument("--job", action="store_true", help="goes through the job, too")
    given, given.beam = parser.parse_known_args()
    if min(given.frames) < 10 or given.beam and not given.job:
        parser.error(
            f"--frames from 10; {' '.join(given.beam)}: Beam's only with --job"
        )
    if len(given.frames) > 1:
        if given.job:
            parser.error("--job: with one number of --frames")
        grown(given, given.json)
        return
    [number] = given.frames
    config = dic_hela.get_config()
    config.data.layout, config.data.num_shards = "empty", given.shards
    found = functools.partial(map, frame_of)
    layouts.LAYOUTS["empty"] = types.SimpleNamespace(
        find=lambda *_: FrameListing(list(found(range(number))), [])
    )
    clock, shards = Clock(number), []
    clock.say("started")
    planned = plan.plan_dataset(BUCKET, config)
    clock.note("finding and splitting", f"{len(planned.frames)} frames found and split")
    with tempfile.TemporaryDirectory() as output:
        job = pipeline.prepare(BUCKET, output, config, planned)
        size = sum(map(os.path.getsize, job.plan_files))
        clock.note(
            "writing the plan",
            f"plan of {len(job.plan_files)} files, {size / 1e6:.0f} MB",
        )
        clock.record.write(given.json)
        planned.frames.clear()
        if given.job:
            whole_job(given, clock, shards, job, output)


def whole_job(given, clock: Clock, shards: list[str], job, output: str) -> None:
    """Beam's local runner, through all but the pixels."""
    empty_pixels(shards)
    options = parse_options(given.beam)
    with pipeline.beam.Pipeline(options=options) as beam_pipeline:
        pipeline.build(beam_pipeline, job)
    clock.say(f"job of {len(shards)} shards")
    sizes = files.sizes_in(output)
    parts = [path for path in sizes if "sources-" in path]
    print(
        f"{INFO_NAME} {sizes[files.join(output, INFO_NAME)] / 1e6:.1f} MB, "
        f"{len(parts)} files of sources {sum(sizes[p] for p in parts) / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    run(main)
