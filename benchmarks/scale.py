"""What a plan of many frames costs: time, memory and bytes, with empty pixels.

    .venv/bin/python benchmarks/scale.py --frames=10000000
    .venv/bin/python benchmarks/scale.py --frames=100000 --job

Frames are named as a Cell Tracking Challenge's in a bucket, a thousand to a sequence;
there are no files. With --job, Beam's local runner goes through the whole job, whose
frames are found to be of 512 x 512 px and whose shards hold nothing.
"""

import argparse
import contextlib
import functools
import os
import pathlib
import resource
import sys
import tempfile
import time
import types

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from configs import dic_hela
from preprocess import files, pipeline, pipeline_shards, pipeline_sources, plan, sources
from preprocess.facts import Inspection
from preprocess.images import Page
from preprocess.runners import parse_options
from preprocess.shards import INFO_NAME
from preprocess.sources import Found, Frame
from preprocess.statistics import Moments

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

    def __init__(self) -> None:
        self.last = time.perf_counter()

    def say(self, what: str) -> None:
        now = time.perf_counter()
        print(f"{what}: {now - self.last:.1f} s, peak {peak_gb():.2f} GB", flush=True)
        self.last = now


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
    pipeline_sources.inspect, pipeline_shards.write_shard = inspected, written
    for module in (pipeline_sources, pipeline_shards):
        module.room_for = contextlib.nullcontext
    pipeline_shards.write_sidecar = lambda folder, shard: None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=1_000_000, help="how many")
    parser.add_argument("--shards", type=int, default=1024, help="most of a split")
    parser.add_argument("--job", action="store_true", help="goes through the job, too")
    given, given.beam = parser.parse_known_args()
    if given.frames < 10 or given.beam and not given.job:
        parser.error(
            f"--frames from 10; {' '.join(given.beam)}: Beam's only with --job"
        )
    config = dic_hela.get_config()
    config.data.layout, config.data.num_shards = "empty", given.shards
    found = functools.partial(map, frame_of)
    sources.LAYOUTS["empty"] = types.SimpleNamespace(
        find=lambda *_: Found(list(found(range(given.frames))), [])
    )
    clock, shards = Clock(), []
    clock.say("started")
    planned = plan.plan_dataset(BUCKET, config)
    clock.say(f"{len(planned.frames)} frames found and split")
    with tempfile.TemporaryDirectory() as output:
        job = pipeline.prepare(BUCKET, output, config, planned)
        size = sum(map(os.path.getsize, job.plan_files))
        clock.say(f"plan of {len(job.plan_files)} files, {size / 1e6:.0f} MB")
        planned.frames.clear()
        if not given.job:
            return
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
    main()
