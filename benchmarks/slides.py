"""Images larger than memory through predict: speed and memory as they grow.

    ./launch.sh benchmark --what=slides --model=DIR
    ./launch.sh benchmark --what=slides --model=DIR --edges 60000 --runs=1

Slides of drawn cells, 8 bit, in tiles of a BigTIFF, are segmented from end to end with
instances and a table (--flags changes that), each in a process of its own; and frames
of 512 px in one piece, as many pixels as a slide of 6,000 px has. For each: megapixels
a second, the peak of the process' resident set, and how much of the blocks' time went
into reading and writing the image, the network's outputs and labels.
"""

import collections
import contextlib
import functools
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parent.parent
sys.path[0] = str(ROOT)  # not this folder: its names are no modules

import numpy as np
import tifffile

from benchmarks.record import Record, parser_of, run

FRAME, TILE = 512, 512
MOST_FRAMES = 6000  # as many pixels as a slide of this edge has
DRAWN = 8  # different frames, which lie side by side, turned


def frames() -> list[np.ndarray]:
    """Drawn cells, uint8 [FRAME, FRAME]."""
    from unet_tfrecords.dataset.drawn_cells import draw_cells

    return [next(draw_cells(FRAME, 1, seed))[0] for seed in range(DRAWN)]


def draw_slide(path: str, edge: int) -> None:
    """A slide of these frames, in their order by chance."""
    drawn, rng = frames(), np.random.default_rng(edge)
    across = -(-edge // TILE)

    def tiles() -> Iterator[np.ndarray]:
        for _ in range(across**2):
            tile = np.rot90(drawn[rng.integers(DRAWN)], rng.integers(4))
            yield np.ascontiguousarray(tile)

    tifffile.imwrite(
        path,
        tiles(),
        shape=(edge, edge),
        dtype=np.uint8,
        tile=(TILE, TILE),
        photometric="minisblack",
        compression="zlib",
        bigtiff=True,
    )


class Clock:
    """Seconds of threads, by what they do."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = collections.defaultdict(float)
        self.lock = threading.Lock()

    @contextlib.contextmanager
    def over(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        with self.lock:
            self.spent[name] += time.perf_counter() - started

    def wrap(self, owner, method: str, name: str) -> None:
        """Times a method of a class."""
        whole = getattr(owner, method)

        @functools.wraps(whole)
        def timed(*args, **named):
            with self.over(name):
                return whole(*args, **named)

        setattr(owner, method, timed)


def segment(given) -> None:
    """The child: predict, and what it took, as a line of JSON."""
    from trainer.commands import predict as command
    from trainer.predict.blocks import segment as by_blocks
    from trainer.predict.blocks.pyramids import Pyramid
    from trainer.predict.blocks.scratch import Scratch
    from trainer.predict.blocks.windowed_image import WindowedImage
    from unet_tfrecords.command import cli

    clock, steps = Clock(), {}
    clock.wrap(WindowedImage, "read", "io")
    clock.wrap(Pyramid, "read", "io")
    clock.wrap(Pyramid, "write", "io")
    clock.wrap(by_blocks._Steps, "outputs_in", "io")
    clock.wrap(by_blocks._Steps, "keep", "io")
    each = Scratch.each

    def timed(self, step, blocks, work, **how):
        def busy(number):
            with clock.over("busy"):
                return work(number)

        started = time.perf_counter()
        each(self, step, blocks, busy, **how)
        steps[step] = time.perf_counter() - started

    Scratch.each = timed
    started = time.perf_counter()
    code = cli.main(command.COMMAND, json.loads(given.child))
    used = resource.getrusage(resource.RUSAGE_SELF)
    found = {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "megabytes": used.ru_maxrss / 1024,
        "io_share": clock.spent["io"] / max(clock.spent["busy"], 1e-9),
        "steps": {name: round(spent, 1) for name, spent in steps.items()},
    }
    print(json.dumps(found))
    sys.exit(code)


def measured(flags: list[str]) -> dict:
    """Runs the child."""
    done = subprocess.run(
        [sys.executable, __file__, f"--child={json.dumps(flags)}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--model", help="an exported one, of a grey channel")
    parser.add_argument("--edges", type=int, nargs="+", default=[6000, 12_000, 24_000])
    parser.add_argument("--runs", type=int, default=3, help="of each, in turns")
    parser.add_argument(
        "--flags", default="--instances --table", help="of predict, with spaces between"
    )
    parser.add_argument("--child", default="", help="for its own use")
    given = parser.parse_args()
    if given.child:
        segment(given)
    record = Record()
    with tempfile.TemporaryDirectory(dir=os.environ.get("SCRATCH")) as scratch:
        inputs = {}
        for edge in given.edges:
            inputs[edge] = f"{scratch}/{edge}.tif"
            draw_slide(inputs[edge], edge)
        folder = pathlib.Path(scratch) / "frames"
        folder.mkdir()
        drawn = frames()
        number = min(*given.edges, MOST_FRAMES) ** 2 // FRAME**2
        for index in range(number):
            tifffile.imwrite(folder / f"{index:05d}.tif", drawn[index % DRAWN])
        found = collections.defaultdict(list)
        for turn in range(given.runs):
            for edge in (FRAME, *given.edges):
                source = folder if edge == FRAME else inputs[edge]
                output = f"{scratch}/out"
                where = [f"--model={given.model}", f"--input={source}"]
                how = ["--format=ome-tiff"] if edge != FRAME else ["--nooverlays"]
                measures = measured(
                    [*where, f"--output={output}", *given.flags.split(), *how]
                )
                subprocess.run(["rm", "-r", output], check=True)
                pixels = number * FRAME**2 if edge == FRAME else edge**2
                measures["speed"] = pixels / 1e6 / measures["seconds"]
                found[edge].append(measures)
                print(f"{turn + 1}/{given.runs}  {edge:6d} px  {json.dumps(measures)}")
                sys.stdout.flush()
    for edge, each in found.items():
        group = "frames of 512 px" if edge == FRAME else "slides"
        how = {"group": group, "at": edge, "of": "px of edge"}
        for quantity, name, unit in (
            ("speed", "speed", "Mpx/s"),
            ("peak memory", "megabytes", "MB"),
            ("share of reading and writing", "io_share", ""),
        ):
            samples = [one[name] for one in each]
            record.add(quantity, "this project", samples, unit=unit, **how)
    record.write(given.json)


if __name__ == "__main__":
    run(main)
