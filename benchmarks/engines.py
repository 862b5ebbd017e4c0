"""What Beam's engines add to a plain loop, on one machine.

    ./launch.sh benchmark --what=engines --input=DIR/DIC-C2DH-HeLa

Each engine does the same job with two workers, and a loop does it without Beam (see
beam.py). Clusters are started before; what counts is the command from start to end.
Processor time and memory are the whole machine's, so nothing else may run.
Rounds take turns, the medians count. `.ci/engines` fetches the engines.
"""

import contextlib
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

sys.path[0] = str(pathlib.Path(__file__).parent.parent)  # not this folder

from benchmarks import beam
from benchmarks.record import Record, run
from tests.engines.clusters import ENGINES, Cluster

ROOT = pathlib.Path(__file__).parent.parent
MODES = {
    "local, 2 threads": "multi_threading",
    "local, 2 processes": "multi_processing",
}
WAYS = ("plain loop", *MODES, *ENGINES)


class Used(NamedTuple):
    """What a job took: s, s of processors, GB of memory at most."""

    seconds: float
    processors: float
    memory: float


def processor_seconds() -> float:
    """Time that all processors together have worked since the machine's start."""
    ticks = pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:]
    idle = int(ticks[3]) + int(ticks[4])
    return (sum(map(int, ticks[:8])) - idle) / os.sysconf("SC_CLK_TCK")


def free_gb() -> float:
    lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    [line] = [line for line in lines if line.startswith("MemAvailable:")]
    return int(line.split()[1]) / 1e6


@contextlib.contextmanager
def least_free() -> Iterator[list[float]]:
    """The memory that was free when least was, GB, by samples."""
    least, is_over = [free_gb()], threading.Event()

    def sample() -> None:
        while not is_over.wait(0.2):
            least[0] = min(least[0], free_gb())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield least
    finally:
        is_over.set()
        thread.join()


def measured(command: list[str], environment: dict[str, str], free: float) -> Used:
    """Runs a command.

    Args:
      command: of which the last word is the output folder.
      environment: besides ours.
      free: GB that were free before its cluster was started.
    """
    with least_free() as least:
        worked, started = processor_seconds(), time.perf_counter()
        ended = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - started
        worked = processor_seconds() - worked
    assert ended.returncode == 0, ended.stderr
    return Used(seconds, worked, free - least[0])


def one_way(name: str, folder: str, augmentations: int, scratch: str) -> Used:
    free, output = free_gb(), os.path.join(scratch, "data")
    if name == "plain loop":
        command = [sys.executable, beam.__file__, f"--input={folder}", f"--way={name}"]
        return measured([*command, f"--augmentations={augmentations}"], {}, free)
    with contextlib.ExitStack() as stack:
        if name in MODES:
            cluster = Cluster(pathlib.Path(scratch), stack)
            cluster.options = [
                f"--direct_running_mode={MODES[name]}",
                "--direct_num_workers=2",
            ]
        else:
            cluster = stack.enter_context(ENGINES[name](pathlib.Path(scratch)))
        command = [
            *(sys.executable, "-m", "preprocess.main", f"--input={folder}"),
            "--config=configs/dic_hela.py",
            f"--config.data.augmentations={augmentations}",
            *cluster.options,
            f"--output={output}",
        ]
        return measured(command, cluster.environment, free)


def main() -> None:
    given = beam.parser_of_ways(__doc__, augmentations=80).parse_args()
    folder = os.path.abspath(given.input)
    ways = [name for name in WAYS if name == "plain loop" or given.only in name]
    used: dict[str, list[Used]] = {name: [] for name in ways}
    for _ in range(given.rounds):
        for name in ways:
            with tempfile.TemporaryDirectory(dir=os.environ.get("SCRATCH")) as scratch:
                used[name].append(one_way(name, folder, given.augmentations, scratch))
                print(f"{name:>18}: {used[name][-1]}", file=sys.stderr, flush=True)
    record, loop = Record(), None
    for name, rounds in used.items():
        record.add("time of the job", name, [r.seconds for r in rounds], unit="s")
        middle = Used(*map(statistics.median, zip(*rounds, strict=True)))
        loop = loop or middle
        print(
            f"{name:>18}: {middle.seconds:6.1f} s, {middle.processors:6.1f} s of "
            f"processors ({middle.processors / loop.processors:.2f} of the plain "
            f"loop's), {middle.memory:.2f} GB"
        )
    record.write(given.json)


if __name__ == "__main__":
    run(main)
