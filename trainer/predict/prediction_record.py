"""`predict.json`: how outputs were made, and the image that each of them is of.

Times of outputs would not tell: clocks step back, a file that is copied over another
may be the older one, and two folders can hold images of the same name.
"""

import functools
import os
import threading
import time
from collections.abc import Iterable
from typing import Any

import msgspec

from trainer.predict.inputs import RECORD, Job
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.images.formats import FOLDER_ENDING
from unet_tfrecords.dataset.images.zarr_image import LABELS
from unet_tfrecords.storage import files, json_files

SHARE = 0.05  # of the time, at most, is spent on writing the record


class ImageNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """An image as it was when it was segmented.

    Attributes:
      path, bytes: of the file.
      updated: when it was last changed, s since 1970.
      made_by: fingerprint of the settings.
      neighbours: fingerprint of the files beside it that the model looked at; "" where
        it looks at none but its own.
    """

    path: str
    bytes: int
    updated: float
    made_by: str
    neighbours: str = ""


class Contents(msgspec.Struct):
    """What the file holds: settings, and notes by the name of the outputs."""

    settings: dict[str, Any]
    images: dict[str, ImageNote]


def _fingerprint(job: Job) -> str:
    """Of the neighbours that are in other files."""
    others = {page.path for page in job.neighbours} - {job.page.path}
    if not others:
        return ""
    content = []
    for path in sorted(others):
        changed = 0 if files.is_remote(path) else os.stat(path).st_mtime_ns
        content.append([files.basename(path), files.size_of(path), changed])
    return json_files.fingerprint(content)


def inside_image(path: str) -> dict[str, tuple[int, float]]:
    """Bytes and time of the files of an image that is a folder.

    Its labels are no part of the image: predict itself may have written them.
    """
    below = files.all_below(path)
    return {name: v for name, v in below.items() if not name.startswith(f"{LABELS}/")}


class PredictionRecord:
    """The images whose outputs are in a folder."""

    def __init__(
        self,
        output: str,
        settings: dict[str, Any],
        *,
        overwrite: bool,
        is_shared: bool = False,
    ):
        """Reads what an earlier run noted.

        Args:
          output: the folder.
          settings: how outputs are made now.
          overwrite: whether outputs made otherwise may be replaced.
          is_shared: whether other processes note images there, too.

        Raises:
          UserError: the folder has outputs made otherwise.
        """
        self.path = files.join(output, RECORD)
        self.contents = Contents(settings, {})
        self.made_by = json_files.fingerprint(settings)
        self.written_at, self.cost_s = 0.0, 0.0
        self.lock, self.is_shared = threading.RLock(), is_shared
        self.is_new = not files.exists(self.path)
        if self.is_new:
            return
        there = self._read()
        self.contents.images = there.images
        lines = json_files.differences(there.settings, settings)
        if lines and not overwrite:
            raise UserError(
                f"{output}: holds outputs made otherwise ({'; '.join(lines)[:300]}); "
                "give another --output, or --overwrite"
            )

    def _read(self) -> Contents:
        try:
            # Not msgspec's own parser: it refuses names that are no UTF-8.
            parsed = json_files.parse(files.read_bytes(self.path))
            return msgspec.convert(parsed, Contents)
        except (FileNotFoundError, ValueError):  # msgspec's are too
            return Contents({}, {})

    def is_done_elsewhere(self, job: Job) -> bool:
        """Whether another process has noted an image since this one began."""
        with self.lock:
            self.contents.images = self._read().images | self.contents.images
        return self.is_done(job)

    def note_of(self, job: Job) -> ImageNote:
        """Describes an image as it is now."""
        path = job.page.path
        beside = _fingerprint(job)
        if path.lower().endswith(FOLDER_ENDING):
            size, updated = self._of_folder(path)
            where = path if files.is_remote(path) else os.path.abspath(path)
            return ImageNote(where, size, updated, self.made_by, beside)
        if files.is_remote(path):
            # A web server's list does not say when: then the size must do.
            size = 0 if job.updated else files.size_of(path)
            return ImageNote(path, size, job.updated, self.made_by, beside)
        size, whole = files.size_of(path), os.path.abspath(path)
        return ImageNote(whole, size, job.updated, self.made_by, beside)

    @functools.lru_cache(maxsize=1)  # noqa: B019  a run has one record; pages come in a row
    def _of_folder(self, path: str) -> tuple[int, float]:
        """Bytes of all files of an image that is a folder, and the newest's time."""
        inside = inside_image(path).values()
        return sum(size for size, _ in inside), max(t for _, t in inside)

    def other_image(self, job: Job) -> str:
        """Returns the path of another existing image whose outputs have this name."""
        noted = self.contents.images.get(job.name)
        if noted is None or noted.path == self.note_of(job).path:
            return ""
        # If it is gone, this image may be the same one, moved.
        is_there = files.is_remote(noted.path) or os.path.exists(noted.path)
        return noted.path if is_there else ""

    def is_done(self, job: Job) -> bool:
        """Returns whether the outputs are of the image as it is; it may have moved."""
        noted, now = self.contents.images.get(job.name), self.note_of(job)
        return noted is not None and now == msgspec.structs.replace(
            noted, path=now.path
        )

    def forget(self, names: Iterable[str]) -> None:
        """Takes notes out, before the outputs are made again."""
        for name in names:
            self.contents.images.pop(name, None)

    def add(self, names: Iterable[str], note: ImageNote) -> None:
        """Notes outputs that are there now; writes the file if that is due."""
        with self.lock:
            self.contents.images |= dict.fromkeys(names, note)
            if SHARE * (time.monotonic() - self.written_at) >= self.cost_s:
                self.write()

    def write(self) -> None:
        """Writes the file."""
        with self.lock:
            started = time.monotonic()
            if self.is_shared:
                self.contents.images = self._read().images | self.contents.images
            json_files.write(self.path, msgspec.to_builtins(self.contents))
            self.written_at = time.monotonic()
            self.cost_s = self.written_at - started
