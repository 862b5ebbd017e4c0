"""What the blocks of an image have come to so far: a folder, until its outputs are.

Results are files that appear whole, so a run that is killed continues where it was, and
processes that share the folder take each other's. Work that two do is done twice and is
the same: claims only make that seldom.
"""

import contextlib
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
# A claim is renewed as long as its process lives. One that others see unchanged for
# LEASE_S, each by its own clock, is taken over.
RENEW_S, LEASE_S = 10.0, 60.0
REMOVALS = 5

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
        self.held: set[str] = set()  # paths of own claims
        made_by = json_files.as_read(made_by)
        about = self._about()
        if about and about["made_by"] != made_by and not is_shared:
            about = None
        if not about:
            if not is_shared:
                self.remove()
            # What an earlier run has left, whose results may be others, has its own.
            about = {"run": uuid.uuid4().hex[:8], "made_by": made_by}
            with contextlib.suppress(FileExistsError):
                files.write_new(self._path(ABOUT), json_files.as_json(about))
            about = self._about() or about
        if about["made_by"] != made_by:
            raise UserError(
                f"{folder}: another process makes these outputs otherwise; wait for "
                "its end, remove the folder, or give another --output"
            )
        self.run = about["run"]

    def _about(self) -> dict[str, Any] | None:
        try:
            found = json_files.parse(files.read_bytes(self._path(ABOUT)))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        return found if isinstance(found, dict) and "made_by" in found else None

    def _path(self, *names: str) -> str:
        return files.join(self.folder, *names)

    def remove(self) -> None:
        """Removes the folder; what says that it is there goes first."""
        files.remove([self._path(ABOUT)])
        for _ in range(REMOVALS):  # others may write there until they see it
            with contextlib.suppress(OSError):
                files.remove_folder(self.folder)
                return
            time.sleep(ASK_S)
        files.remove_folder(self.folder)

    def array_folder(self, name: str) -> str:
        """Where an array of the image's size goes."""
        return self._path(self.run, name)

    def array(self, name: str, shape: Sequence[int], dtype: Any, chunk_px: int) -> Any:
        """A zarr array of the image's size; chunks are [1, ..., chunk, chunk]."""
        return open_array(
            self.array_folder(name), shape, dtype, chunk_px, zarr_format=3
        )

    def result(self, step: str, number: int, kind: type[Result]) -> Result:
        """What a step has found of a block.

        Raises:
          DoneElsewhere: another process finished the image meanwhile.
        """
        path = self._path(self.run, step, _name(number))
        try:
            return unpacked(files.read_bytes(path), kind)
        except FileNotFoundError:
            self._check_there()
            raise
        except (zlib.error, msgspec.DecodeError, ValueError) as error:
            raise UserError(
                f"{path}: broken ({error}); remove {self.folder}, then run it again"
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
    ) -> None:
        """Works on the blocks that are not done, with other processes where shared.

        Args:
          step: its name, for people and in the folder.
          blocks: their numbers.
          work: of a block; what it returns is kept.
          threads: how many blocks are in work at a time.

        Raises:
          DoneElsewhere: another process finished the image meanwhile.
        """
        failed = threading.Event()

        def worked(number: int) -> None:
            path = self._path(self.run, step, _name(number))
            try:
                if not failed.is_set():
                    files.write_bytes(path, packed(work(number)))
            except BaseException as error:
                failed.set()
                if isinstance(error, FileNotFoundError):
                    self._check_there()
                raise
            finally:
                self._give_up(path + CLAIM)

        first = len(self._there(step)[0] & set(blocks))
        with (
            self._renewing(),
            bars.bar(total=len(blocks), initial=first, desc=step, unit="block") as bar,
        ):
            todo = self._claimed(step, blocks, failed)
            made = ordered_map(worked, todo, threads=threads, window=threads)
            for _, outcome in made:
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
        seen: dict[tuple[int, float], float] = {}
        own: set[int] = set()
        while not failed.is_set():
            done, claims = self._there(step)
            self._check_there()  # after the list, or a removed folder is one of nothing
            left = [number for number in order if number not in done]
            if not left:
                return
            now = time.monotonic()
            number = next(
                (
                    n
                    for n in left
                    if n not in own
                    and (
                        n not in claims
                        or now - seen.setdefault((n, claims[n]), now) > LEASE_S
                    )
                ),
                None,
            )
            if number is None:
                time.sleep(ASK_S)
            elif self._claim(step, number, is_old=number in claims):
                own.add(number)
                yield number

    def _claim(self, step: str, number: int, *, is_old: bool) -> bool:
        path = self._path(self.run, step, _name(number) + CLAIM)
        try:
            if is_old:
                files.write_bytes(path, self.who.encode())
            else:
                files.write_new(path, self.who.encode())
        except FileExistsError:
            return False
        except FileNotFoundError:  # the folder is being removed
            self._check_there()
            return False
        self.held.add(path)
        return True

    def _give_up(self, path: str) -> None:
        if self.is_shared:
            self.held.discard(path)
            files.remove([path])

    @contextlib.contextmanager
    def _renewing(self) -> Iterator[None]:
        """Writes own claims again and again, so that others see that this one lives."""
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(RENEW_S):
                for path in [*self.held]:
                    with contextlib.suppress(OSError, UserError):
                        files.write_bytes(path, self.who.encode())
                    if path not in self.held:  # given up meanwhile
                        files.remove([path])

        thread = threading.Thread(target=renew, daemon=True)
        if self.is_shared:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            if self.is_shared:
                thread.join()

    def _there(self, step: str) -> tuple[set[int], dict[int, float]]:
        """Blocks that are done, and when each claimed one was last claimed."""
        found = files.all_below(self._path(self.run, step))
        names = [name for name in found if not name.startswith(files.TEMPORARY)]
        done = {_number(name) for name in names if name.endswith(ENDING)}
        claims = {_number(n): found[n][1] for n in names if n.endswith(CLAIM)}
        return done, claims

    def _check_there(self) -> None:
        if self.is_shared and (self._about() or {}).get("run") != self.run:
            raise DoneElsewhere


ENDING = ".msgpack"


def _name(number: int) -> str:
    return f"{number:08d}{ENDING}"


def _number(name: str) -> int:
    return int(name.partition(".")[0])


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

    # A chunk that is not there was not written, or is lost: it is not all 0.
    store = FolderStore(folder, read_only=False, has_all_chunks=True)
    shape = tuple(shape)
    chunks = (*(1 for _ in shape[2:]), *(min(chunk_px, side) for side in shape[-2:]))
    with zarr.config.set({"array.write_empty_chunks": True}):
        try:
            array = zarr.open_array(store, mode="r+", zarr_format=zarr_format)
        except FileNotFoundError:
            return zarr.create_array(
                store,
                shape=shape,
                dtype=dtype,
                chunks=chunks,
                fill_value=0,
                zarr_format=zarr_format,
                # Zarr 2 has "." between a chunk's numbers unless its metadata say "/".
                chunk_key_encoding={
                    "name": "default" if zarr_format == 3 else "v2",
                    "separator": "/",
                },
                dimension_names=[*axes] if axes and zarr_format == 3 else None,
                overwrite=True,
            )
    if (array.shape, array.dtype, array.chunks) != (shape, np.dtype(dtype), chunks):
        raise UserError(f"{folder}: holds something else; remove it, then run it again")
    return array


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
