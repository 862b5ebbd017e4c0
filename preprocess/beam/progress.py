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

from tqdm import tqdm

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


class Bars:
    """Bars of frames checked, then of tiles made, on standard error."""

    def __init__(self, output: str, frames: int):
        """Begins counting again.

        Args:
          output: the folder where workers count.
          frames: how many will be checked.
        """
        self.output = output
        self._forget()
        expect(output, FRAMES, frames)
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._follow, daemon=True)

    def _forget(self) -> None:
        """Removes the counts, those of a killed run too."""
        if files.is_remote(self.output):  # where nobody counts
            return
        for what in (FRAMES, TILES):
            files.remove([_path(self.output, what), _path(self.output, f"all-{what}")])

    def _follow(self) -> None:
        for what, unit in ((FRAMES, "frame"), (TILES, "tile")):
            while (total := _expected(self.output, what)) is None:
                if self.stop.wait(0.1):
                    return
            with bars.bar(total=total, unit=unit, desc=what) as bar:
                while bar.n < total and not self.stop.wait(0.5):
                    self._show(bar, what)
                self._show(bar, what)

    def _show(self, bar: tqdm, what: str) -> None:
        # A worker that fails is tried again, and counts again.
        bar.update(max(0, min(_done(self.output, what), bar.total) - bar.n))

    def __enter__(self):
        if not files.is_remote(self.output):
            self.thread.start()

    def __exit__(self, *_):
        self.stop.set()
        if self.thread.ident:
            self.thread.join()
        self._forget()


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
