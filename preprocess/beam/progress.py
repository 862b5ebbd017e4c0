"""Where a job stands and where its time goes.

Local workers, in whichever process, leave counts in the output folder: a file that
grows by a byte for each thing done, so that its size is the count and appending needs
no lock. The command follows it with a bar. Elsewhere the runner shows Beam's counters.
"""

import collections
import contextlib
import os
import threading
import time
from collections.abc import Iterator

from unet_tfrecords.command import bars
from unet_tfrecords.storage import files

FRAMES, TILES = "frames", "tiles"  # what is counted
ENDING = ".count"
NAMESPACE = "preprocess"  # of all of Beam's counters


def _path(output: str, what: str) -> str:
    return files.join(output, f"{files.TEMPORARY}{what}{ENDING}")


def is_count(path: str) -> bool:
    """Whether a bar may follow this file; not what a killed writer has left of one."""
    kinds = [f"{some}{what}" for some in ("", "all-") for what in (FRAMES, TILES)]
    return files.basename(path) in [files.basename(_path("", kind)) for kind in kinds]


def add(output: str, what: str, number: int) -> None:
    """Counts some more things as done."""
    if not files.is_remote(output):
        files.make_folder(output)
        path = _path(output, what)
        with files.naming(path), open(path, "ab") as file:
            file.write(b"." * number)


def expect(output: str, what: str, number: int) -> None:
    """Says how many there will be."""
    if not files.is_remote(output):
        files.write_bytes(_path(output, f"all-{what}"), str(number).encode())


def _done(output: str, what: str) -> int:
    with contextlib.suppress(FileNotFoundError):
        return os.path.getsize(_path(output, what))
    return 0


def _expected(output: str, what: str) -> int | None:
    with contextlib.suppress(FileNotFoundError):
        return int(files.read_bytes(_path(output, f"all-{what}")))
    return None


@contextlib.contextmanager
def bars_of(output: str, frames: int) -> Iterator[None]:
    """Bars of frames checked, then of tiles made, on standard error.

    Args:
      output: the folder where workers count, from the start.
      frames: how many will be checked.
    """
    if files.is_remote(output):  # where nobody counts
        yield
        return
    _forget(output)
    expect(output, FRAMES, frames)
    stop = threading.Event()
    thread = threading.Thread(target=_follow, args=(output, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        _forget(output)


def _forget(output: str) -> None:
    """Removes the counts, those of a killed run too."""
    for what in (FRAMES, TILES):
        files.remove([_path(output, what), _path(output, f"all-{what}")])


def _follow(output: str, stop: threading.Event) -> None:
    for what, unit in ((FRAMES, "frame"), (TILES, "tile")):
        while (total := _expected(output, what)) is None:
            if stop.wait(0.1):
                return
        with bars.bar(total=total, unit=unit, desc=what) as bar:
            ended = False
            while bar.n < total and not ended:
                ended = stop.wait(0.5)
                # A worker that fails is tried again, and counts again.
                bar.update(max(0, min(_done(output, what), total) - bar.n))


class Stopwatch:
    """Adds up the seconds of each stage."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.seconds: dict[str, float] = collections.defaultdict(float)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a block."""
        started = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - started

    def each(self, name: str, items: Iterator) -> Iterator:
        """Times the making of items, not what is done with them."""
        while True:
            with self.stage(name):
                item = next(items, None)
            if item is None:
                return
            yield item

    def msec(self, name: str) -> int:
        """A stage's time in whole milliseconds."""
        return round(1000 * self.seconds[name])

    def rest(self, name: str) -> None:
        """Books all time since the start that no stage has had."""
        total = time.perf_counter() - self.started
        self.seconds[name] = total - sum(self.seconds.values())
