"""Peak memory and time of preprocess as the work grows, and of one huge frame.

    ./launch.sh benchmark --what=memory --input=DIR/DIC-C2DH-HeLa
    ./launch.sh benchmark --what=memory --huge

The first runs the command with 1, 4 and 16 times (or --times) the augmentations, with
the frames and the shards as many times, but 16; the second on a drawn frame of
20,000 x 20,000 pixels of 16 bits. Memory is the largest resident set of any process, as
the system reports it at its end.
"""

import functools
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
import tifffile

ROOT = pathlib.Path(__file__).parent.parent
sys.path[0] = str(ROOT)  # not this folder: its names are no modules

from benchmarks.record import Record, parser_of, run


def preprocess(arguments: list[str]) -> tuple[float, float]:
    """Runs preprocess; seconds, and MB of the largest resident set."""
    code = (
        "import resource, subprocess, sys\n"
        "ended = subprocess.run([sys.executable, '-m', 'preprocess.main', "
        "*sys.argv[1:]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "print(ended.returncode, "
        "resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
    )
    started = time.perf_counter()
    told = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert told[0] == "0", f"preprocess failed: {arguments}"
    return time.perf_counter() - started, float(told[1])


def copies(folder: str, into: pathlib.Path, number: int) -> str:
    """The first sequence of a set of the challenge, several times under new numbers."""
    for index in range(number):
        for kind in ("", "_GT", "_ST"):
            there = pathlib.Path(folder) / f"01{kind}"
            if there.is_dir():
                shutil.copytree(there, into / f"{index + 1:02d}{kind}")
    return str(into)


def grown(folder: str, times: list[int], record: Record) -> None:
    """A table of what grows with what."""
    base = ["--config=configs/dic_hela.py:cpu", "--config.data.name=HeLa"]
    # Copies of one sequence may not lie in two splits: all are trained on.
    base += ["--config.data.split.validation=0.0", "--config.data.split.test=0.0"]

    @functools.cache  # once the work is the same of all three
    def measured(augmentations: int, frames: int, shards: int) -> tuple[float, float]:
        flags = [f"--config.data.augmentations={2 * augmentations}"]
        flags += [f"--config.data.num_shards={4 * shards}"]
        with tempfile.TemporaryDirectory(dir=os.environ.get("SCRATCH")) as scratch:
            source = copies(folder, pathlib.Path(scratch) / "in", frames)
            paths = [f"--input={source}", f"--output={scratch}/out"]
            return preprocess([*base, *flags, *paths])

    cases = [("augmentations", n, (n, 1, 1)) for n in times]
    cases += [("frames", n, (1, n, 1)) for n in times[:2]]
    cases += [("shards", n, (1, 1, n)) for n in times[:2]]
    print(f"{'times the':>18}  {'seconds':>8}  {'peak MB':>8}")
    for name, n, work in cases:
        seconds, megabytes = measured(*work)
        print(f"{f'{name} {n}':>18}  {seconds:8.1f}  {megabytes:8.0f}", flush=True)
        times_as_many = {"at": n, "of": "times as many"}
        record.add("time of the command", name, [seconds], unit="s", **times_as_many)
        record.add("peak memory", name, [megabytes], unit="MB", **times_as_many)


def draw_huge(folder: pathlib.Path, edge: int) -> None:
    """One 16-bit frame of noise with discs, and its instances, strip by strip."""
    rng = np.random.default_rng(0)
    columns = np.arange(edge)
    image = np.empty((edge, edge), np.uint16)
    mask = np.zeros((edge, edge), np.uint16)
    for row in range(edge):  # a disc in every cell of 100 px
        disc = np.hypot(row % 100 - 50, columns % 100 - 50) < 44
        mask[row] = disc * (row // 100 * 200 + columns // 100 + 1)
        image[row] = rng.integers(900, 1100, edge, np.uint16) + 300 * disc
    for kind, pixels in (("images", image), ("masks", mask)):
        (folder / kind).mkdir(parents=True)
        tifffile.imwrite(folder / kind / "huge.tif", pixels)


def huge(edge: int) -> None:
    """Memory of a frame unchanged and once augmented."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("SCRATCH")) as scratch:
        draw_huge(pathlib.Path(scratch) / "in", edge)
        seconds, megabytes = preprocess(
            [
                "--config=configs/folder.py",
                "--config.data.labels=instance",
                "--config.data.augmentations=2",
                "--config.data.split.validation=0.0",
                "--config.data.split.test=0.0",
                f"--input={scratch}/in",
                f"--output={scratch}/out",
            ]
        )
        size = sum(path.stat().st_size for path in pathlib.Path(scratch).glob("out/*"))
    print(
        f"{edge} x {edge} px of 16 bits, unchanged and augmented: {seconds:.0f} s, "
        f"peak {megabytes:.0f} MB, {size / 1e9:.1f} GB of shards"
    )


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--input", help="a set of the challenge's")
    parser.add_argument("--huge", action="store_true")
    parser.add_argument(
        "--edge", type=int, default=20_000, help="of the huge frame, px"
    )
    parser.add_argument("--times", type=int, nargs="+", default=[1, 4, 16])
    given = parser.parse_args()
    record = Record()
    if given.input:
        grown(given.input, given.times, record)
    record.write(given.json)
    if given.huge:
        huge(given.edge)


if __name__ == "__main__":
    run(main)
