"""What Beam costs over a plain loop, and what a second worker gives.

    ./launch.sh benchmark --what=beam --input=DIR/DIC-C2DH-HeLa

The loop calls the functions that the job's transforms call, in one thread, and writes
the same files; their bytes are compared. Rounds take turns, the median counts.
"""

import argparse
import collections
import functools
import hashlib
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

sys.path[0] = str(pathlib.Path(__file__).parent.parent)  # not this folder

from benchmarks.record import Record, parser_of, run
from configs import dic_hela
from preprocess import plan
from preprocess.beam import pipeline as job
from preprocess.beam import shard_transforms
from preprocess.beam.runners import LOCAL_RUNNER
from preprocess.describe import source_of
from preprocess.inspection import FrameTotals, conclude, inspect, totals_of
from unet_tfrecords.dataset.shards import INFO_NAME
from unet_tfrecords.dataset.splits import SPLITS
from unet_tfrecords.storage import files

ROOT = pathlib.Path(__file__).parent.parent


def plain_loop(folder: str, output: str, config) -> None:
    """The job without Beam."""
    writer = shard_transforms.WriteShard(config, output)
    writer.setup()
    planned = plan.plan_dataset(folder, config)
    digest = functools.cache(files.sha256_of)
    sources = [
        inspect(frame, config)._replace(
            digests=tuple(digest(page.path) for page in frame.pages)
        )
        for frame in planned.frames
    ]
    sums = FrameTotals()
    for source in sources:
        sums.add(totals_of(source, config, folder))
    facts = conclude(sums, [], planned.problems, config)
    units = [u for p in plan.plan_all(planned.frames, config) for u in p.units()]
    by_shard = collections.defaultdict(list)
    for unit in units:
        by_shard[SPLITS.index(unit.frame.split), unit.shard].append(unit)
    made = [shard for item in by_shard.items() for shard in writer.process(item, facts)]
    job.write_info(
        None,
        made,
        [source_of(source, folder) for source in sources],
        [],
        [],
        facts,
        job.prepare(folder, output, config, planned),
    )


def beam_job(folder: str, output: str, config, mode: str, workers: int) -> None:
    """The job on Beam's local runner."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    options = PipelineOptions(
        [
            f"--runner={LOCAL_RUNNER}",
            f"--direct_running_mode={mode}",
            f"--direct_num_workers={workers}",
        ]
    )
    pipeline = beam.Pipeline(options=options)
    planned = plan.plan_dataset(folder, config)
    job.build(pipeline, job.prepare(folder, output, config, planned))
    pipeline.run().wait_until_finish()


WAYS = {
    "plain loop": plain_loop,
    "Beam, 1 worker": lambda *a: beam_job(*a, "in_memory", 1),
    "Beam, 1 thread": lambda *a: beam_job(*a, "multi_threading", 1),
    "Beam, 2 threads": lambda *a: beam_job(*a, "multi_threading", 2),
    "Beam, 1 process": lambda *a: beam_job(*a, "multi_processing", 1),
    "Beam, 2 processes": lambda *a: beam_job(*a, "multi_processing", 2),
}


def bytes_of(output: str) -> str:
    """One digest of all shards."""
    digest = hashlib.sha256()
    for path in sorted(pathlib.Path(output).glob("*.tfrecord")):
        digest.update(path.name.encode() + path.read_bytes())
    assert (pathlib.Path(output) / INFO_NAME).exists()
    return digest.hexdigest()[:16]


def one_way(name: str, folder: str, config) -> tuple[float, str]:
    """Seconds, imports aside, and the bytes' digest."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("SCRATCH")) as scratch:
        output = os.path.join(scratch, "data")
        started = time.perf_counter()
        WAYS[name](folder, output, config)
        return time.perf_counter() - started, bytes_of(output)


def parser_of_ways(doc: str, augmentations: int) -> argparse.ArgumentParser:
    """Flags of a benchmark that does one job in several ways."""
    parser = parser_of(doc)
    parser.add_argument("--input", required=True, help="a set of the challenge's")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--augmentations", type=int, default=augmentations)
    parser.add_argument("--only", default="", help="ways with this in their name")
    return parser


def main() -> None:
    parser = parser_of_ways(__doc__, augmentations=20)
    parser.add_argument("--way", help="this one, in this process; for the benchmark")
    given = parser.parse_args()
    config = dic_hela.get_config()
    config.data.augmentations = given.augmentations
    folder = os.path.abspath(given.input)
    if given.way:
        print(*one_way(given.way, folder, config))
        return
    ways = [n for n in WAYS if n == "plain loop" or given.only in n]
    seconds = collections.defaultdict(list)
    digests = set()
    for _ in range(given.rounds):
        for name in ways:  # each in a fresh process, as a user starts it
            command = [sys.executable, __file__, f"--input={folder}", f"--way={name}"]
            command.append(f"--augmentations={given.augmentations}")
            ended = subprocess.run(
                command, cwd=ROOT, check=True, capture_output=True, text=True
            )
            taken, digest = ended.stdout.split()[-2:]
            seconds[name].append(float(taken))
            digests.add(digest)
    assert len(digests) == 1, "the ways made different bytes"
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    record = Record()
    for name, taken in seconds.items():
        record.add("time of the job", name, taken, unit="s")
    record.write(given.json)
    for name, taken in medians.items():
        spread = f"{min(seconds[name]):.1f} to {max(seconds[name]):.1f}"
        print(
            f"{name:>18}: {taken:6.1f} s ({spread}), "
            f"{taken / medians['plain loop']:.2f} of the plain loop"
        )
    for kind, kinds in (("thread", "threads"), ("process", "processes")):
        if not {f"Beam, 1 {kind}", f"Beam, 2 {kinds}"} <= set(medians):
            continue
        gain = medians[f"Beam, 1 {kind}"] / medians[f"Beam, 2 {kinds}"]
        print(f"2 {kinds} are {gain:.2f} times as fast as 1; all made the same bytes")


if __name__ == "__main__":
    run(main)
