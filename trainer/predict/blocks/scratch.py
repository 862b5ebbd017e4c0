"""What the blocks of an image have come to so far: a folder, until its outputs are.

Results are files that appear whole, so a run that is killed continues where it was, and
processes that share the folder take each other's. Work that two do is done twice and is
the same: claims only make that seldom.
"""

import itertools
import os
import socket
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np

from trainer.predict.ordered_map import ordered_map
from unet_tfrecords.command import bars
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.command.extras import load_extra
from unet_tfrecords.storage import files, json_files

ABOUT = "scratch.json"
CLAIM = ".claim"
ASK_S = 0.5  # between two looks at what others have done
# A claim that others see for so long, or so many times what a block of theirs took, is
# one of a process that is gone.
LEAST_LEASE_S, LEASE = 60.0, 10.0

Result = TypeVar("Result")


class DoneElsewhere(Exception):
    """Another process has finished the image, and removed the folder."""


class Scratch:
    """A folder of results by step and block, and of arrays of the image's size."""

    def __init__(self, folder: str, made_by: dict[str, Any], *, is_shared: bool):
        """Opens a folder, emptied of results that were made otherwise.

        Args:
          folder: of one image.
          made_by: what results depend on.
          is_shared: whether other processes may be at work there.

        Raises:
          UserError: others work there on results that are made otherwise.
        """
        self.folder, self.is_shared = folder, is_shared
        self.who = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.longest_s = 0.0
        path = files.join(folder, ABOUT)
        made_by = json_files.as_read(made_by)
        if files.exists(path):
            if json_files.parse(files.read_bytes(path)) == made_by:
                return
            if is_shared:
                raise UserError(
                    f"{folder}: another process makes these outputs otherwise; wait "
                    "for its end, remove the folder, or give another --output"
                )
        self.remove()
        json_files.write(path, made_by)

    def remove(self) -> None:
        """Removes the folder; what says that it is there goes first."""
        files.remove([files.join(self.folder, ABOUT)])
        files.remove_folder(self.folder)

    def array(self, name: str, shape: Sequence[int], dtype: Any, chunk_px: int) -> Any:
        """A zarr array of the image's size, 0 where nothing was written.

        Its chunks are [1, ..., chunk, chunk].
        """
        return open_array(
            files.join(self.folder, name), shape, dtype, chunk_px, zarr_format=3
        )

    def result(self, step: str, number: int, kind: type[Result]) -> Result:
        """What a step has found of a block."""
        path = files.join(self.folder, step, _name(number))
        try:
            return unpacked(files.read_bytes(path), kind)
        except FileNotFoundError:
            self._check_there()
            raise
        except (zlib.error, msgspec.DecodeError, ValueError) as error:
            raise UserError(
                f"{path}: broken ({error}); remove it, then run it again"
            ) from None

    def results(self, step: str, number: int, kind: type[Result]) -> list[Result]:
        """What a step has found of all blocks."""
        return [self.result(step, each, kind) for each in range(number)]

    def each(
        self,
        step: str,
        blocks: Sequence[int],
        work: Callable[[int], Any],
        *,
        threads: int = 1,
        stopping: threading.Event | None = None,
    ) -> None:
        """Works on the blocks that are not done, with other processes where shared.

        Args:
          step: its name, for people and in the folder.
          blocks: their numbers.
          work: of a block; what it returns is kept.
          threads: how many blocks are in work at a time.
          stopping: ends it early.

        Raises:
          DoneElsewhere: another process finished the image meanwhile.
        """
        failed = threading.Event()
        done = self._there(step)[0]

        def worked(number: int) -> None:
            if failed.is_set() or (stopping and stopping.is_set()):
                return
            started = time.monotonic()
            try:
                content = packed(work(number))
                files.write_bytes(files.join(self.folder, step, _name(number)), content)
            except BaseException:
                failed.set()
                raise
            finally:
                self._give_up(step, number)
            self.longest_s = max(self.longest_s, time.monotonic() - started)

        first = len(done & set(blocks))
        with bars.bar(total=len(blocks), initial=first, desc=step, unit="block") as bar:
            todo = self._claimed(step, blocks, failed)
            for _, outcome in ordered_map(
                worked, todo, threads=threads, window=threads
            ):
                if isinstance(outcome, BaseException):
                    raise outcome
                bar.update()

    def _claimed(
        self, step: str, blocks: Sequence[int], failed: threading.Event
    ) -> Iterator[int]:
        """Blocks that are for this process to do, until all are done."""
        if not self.is_shared:
            done, _ = self._there(step)
            yield from (number for number in blocks if number not in done)
            return
        # Processes begin at different places, so that few claims meet.
        start = zlib.crc32(self.who.encode()) % max(1, len(blocks))
        order = [*blocks[start:], *blocks[:start]]
        seen: dict[int, float] = {}
        own: set[int] = set()
        while not failed.is_set():
            self._check_there()
            done, claims = self._there(step)
            left = [number for number in order if number not in done]
            if not left:
                return
            lease_s = max(LEAST_LEASE_S, LEASE * self.longest_s)
            now = time.monotonic()
            free = []
            for number in left:
                if number in own:
                    continue
                if number not in claims:
                    free.append(number)
                elif now - seen.setdefault(number, now) > lease_s:
                    free.append(number)
            for number in itertools.islice(free, 1):
                if self._claim(step, number, is_old=number in claims):
                    own.add(number)
                    yield number
                break
            else:
                time.sleep(ASK_S)

    def _claim(self, step: str, number: int, *, is_old: bool) -> bool:
        path = files.join(self.folder, step, _name(number) + CLAIM)
        if is_old:
            files.write_bytes(path, self.who.encode())
            return True
        try:
            files.write_new(path, self.who.encode())
        except FileExistsError:
            return False
        return True

    def _give_up(self, step: str, number: int) -> None:
        if self.is_shared:
            files.remove([files.join(self.folder, step, _name(number) + CLAIM)])

    def _there(self, step: str) -> tuple[set[int], set[int]]:
        """Blocks that are done, and those that somebody claims."""
        names = {
            files.basename(path)
            for path in files.glob_in(files.join(self.folder, step), "*")
        }
        claims = {int(n.split(".")[0]) for n in names if n.endswith(CLAIM)}
        done = {int(n.split(".")[0]) for n in names if n.endswith(ENDING)}
        return done, claims

    def _check_there(self) -> None:
        if self.is_shared and not files.exists(files.join(self.folder, ABOUT)):
            raise DoneElsewhere


ENDING = ".msgpack"


def _name(number: int) -> str:
    return f"{number:08d}{ENDING}"


def open_array(
    folder: str,
    shape: Sequence[int],
    dtype: Any,
    chunk_px: int,
    *,
    zarr_format: int,
    axes: str = "",
) -> Any:
    """A zarr array in a folder of its own, made where there is none.

    Its chunks are [1, ..., chunk, chunk], and files that appear whole.
    """
    zarr = load_extra("zarr", flag="images by blocks", extra="zarr")
    from unet_tfrecords.storage.zarr_store import FolderStore

    store = FolderStore(folder, read_only=False)
    chunks = (*(1 for _ in shape[2:]), *(min(chunk_px, side) for side in shape[-2:]))
    try:
        return zarr.open_array(store, mode="r+", zarr_format=zarr_format)
    except FileNotFoundError:
        return zarr.create_array(
            store,
            shape=tuple(shape),
            dtype=dtype,
            chunks=chunks,
            fill_value=0,
            zarr_format=zarr_format,
            # The format's first version knows "/" only where it is told.
            chunk_key_encoding={
                "name": "default" if zarr_format == 3 else "v2",
                "separator": "/",
            },
            dimension_names=[*axes] if axes and zarr_format == 3 else None,
            overwrite=True,
        )


def packed(value: Any) -> bytes:
    """A result as bytes: msgpack, in zlib, which tells what is broken."""
    return zlib.compress(msgspec.msgpack.encode(value, enc_hook=_array_as_list), 1)


def unpacked(content: bytes, kind: type[Result]) -> Result:
    """A result again.

    Raises:
      zlib.error, msgspec.DecodeError: broken.
    """
    return msgspec.msgpack.decode(
        zlib.decompress(content), type=kind, dec_hook=_list_as_array
    )


def _array_as_list(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [value.dtype.str, list(value.shape), value.tobytes()]
    if isinstance(value, np.generic):
        return value.item()
    raise NotImplementedError(type(value))


def _list_as_array(kind: type, value: Any) -> Any:
    if kind is not np.ndarray:
        raise NotImplementedError(kind)
    dtype, shape, content = value
    return np.frombuffer(content, dtype).reshape(shape).copy()
