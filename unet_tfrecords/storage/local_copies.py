"""Remote files brought near: a stack of many pages is fetched once, not once a page."""

import atexit
import collections
import contextlib
import functools
import io
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from typing import IO, Any, NamedTuple

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.storage import files, stores

KEPT = 64  # copies that a process keeps, the last used ones
ROOM = 2**31  # bytes of them; but the last ones are kept however large they are
LAST = 4
FAR = 2**28  # bytes of a remote file from which parts are read where they are
BLOCK = 2**20  # bytes of it that are asked for at once
TRUSTED_S = 60.0  # so long a copy is taken for the file without asking the store


class Copy(NamedTuple):
    """A file on this machine's disk.

    Attributes:
      name: of the copy.
      size: its bytes.
      known: when it was last known to be the store's.
      version: of the store's.
    """

    name: str
    size: int
    known: float
    version: str


_copies: collections.OrderedDict[str, Copy] = collections.OrderedDict()
# When each remote file was last looked at, its bytes and its version.
_versions: dict[str, tuple[float, int, str]] = {}
_locks = [threading.Lock() for _ in range(64)]
_lock = threading.Lock()


def open_near(path: str) -> IO[bytes]:
    """A seekable file on this machine's disk: itself, or a copy that others use too.

    Args:
      path: local or remote.

    Raises:
      FileNotFoundError: there is none.
      UserError: the store does not give it.
    """
    if not files.is_remote(path):
        return open(path, "rb")
    with _locks[hash(path) % len(_locks)]:  # one fetches, others that want it wait
        with _lock:
            copy = _copies.get(path)
        if copy and not _is_fresh(copy):
            version = _version_of(stores.info(path))
            same = os.path.exists(copy.name) and copy.version == version
            copy = copy._replace(known=time.monotonic()) if same else None
        copy = copy or _fetched(path)
        with _lock:
            if (before := _copies.pop(path, None)) and before.name != copy.name:
                _forget(before)
            opened = open(copy.name, "rb")
            _copies[path] = copy
            _evict()
            return opened


def open_parts(path: str) -> IO[bytes]:
    """A seekable file of which parts are wanted: a large remote one is not copied.

    Args:
      path: local or remote.

    Raises:
      FileNotFoundError: there is none.
    """
    if not files.is_remote(path):
        return open(path, "rb")
    size, version = version_of(path)
    return open_near(path) if size < FAR else _Ranged(path, size, version)  # type: ignore[return-value]  # it is what `open` gives without a buffer


def version_of(path: str, *, is_new: bool = False) -> tuple[int, str]:
    """Bytes of a file, and what becomes another text when the file changes.

    Args:
      path: local or remote.
      is_new: whether the store is asked even if it was some seconds ago.

    Raises:
      FileNotFoundError: there is none.
    """
    if not files.is_remote(path):
        there = os.stat(path)
        return there.st_size, str(there.st_mtime_ns)
    if not is_new and (copy := _copies.get(path)) and _is_fresh(copy):
        return copy.size, copy.version
    known, size, version = _versions.get(path, (0.0, 0, ""))
    if is_new or not known or time.monotonic() - known > TRUSTED_S:
        said = stores.info(path)
        size = stores.size_of(path) if said["size"] is None else said["size"]
        version = _version_of(said)
        _versions[path] = time.monotonic(), size, version
    return size, version


class _Ranged(io.RawIOBase):
    """A remote file, read block by block; the last ones are kept."""

    def __init__(self, path: str, size: int, version: str):
        super().__init__()
        self.path, self.size, self.version, self.place = path, size, version, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.size}
        self.place = max(0, start[whence] + offset)
        return self.place

    def readinto(self, buffer: Any) -> int:
        if self.closed:
            raise ValueError("read of a closed file")
        number, start = divmod(self.place, BLOCK)
        if self.place >= self.size:
            return 0
        block = _block(self.path, self.version, number, self.size)
        part = block[start : start + len(buffer)]
        buffer[: len(part)] = part
        self.place += len(part)
        return len(part)

    def read(self, size: int = -1) -> bytes:
        """All that is asked for, as a file with a buffer does."""
        left = self.size - self.place
        left = max(0, left if size is None or size < 0 else min(size, left))
        parts = []
        while left > 0 and (part := super().read(min(left, BLOCK))):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)


@functools.lru_cache(KEPT)
def _block(path: str, _version: str, number: int, size: int) -> bytes:
    start, end = number * BLOCK, min((number + 1) * BLOCK, size)
    content = files.read_range(path, start, end)
    if len(content) != end - start:
        raise UserError(f"{path}: has changed while it was read; run it again")
    return content


@contextlib.contextmanager
def copied(folder: str, names: Iterable[str]) -> Iterator[str]:
    """A folder of this machine with files of a remote one, until the block ends.

    For TensorFlow, which reads this machine's disks alone.

    Args:
      folder: local or remote; a local one is yielded itself.
      names: of its files to copy, relative to it.

    Raises:
      FileNotFoundError: there is none of that name.
      UserError: the store does not give it.
    """
    if not files.is_remote(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="unet-near-") as near:
        for name in names:
            files.copy(files.join(folder, name), os.path.join(near, name))
        yield near


def _is_fresh(copy: Copy) -> bool:
    is_there = os.path.exists(copy.name)  # a cleaner of TMPDIR may remove it
    return is_there and time.monotonic() - copy.known < TRUSTED_S


def _forget(copy: Copy) -> None:
    """Removes a copy; who has it open can read on."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(copy.name)


def _version_of(said: dict[str, Any]) -> str:
    """Of an object, from all that its store says of it: its checksum, its time."""
    return repr(sorted(said.items()))


@functools.cache
def _folder() -> str:
    """Of this process' copies, those on their way included; it goes with it."""
    folder = tempfile.mkdtemp(prefix="unet-near-")
    atexit.register(_remove_all, folder)
    return folder


def _remove_all(folder: str) -> None:
    for _ in range(10):  # a thread may be fetching into it
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.exists(folder):
            return
        time.sleep(0.02)


def _fetched(path: str) -> Copy:
    said = stores.info(path)  # before: what changes meanwhile is another then
    handle, name = tempfile.mkstemp(dir=_folder())
    os.close(handle)
    with files.naming(name):
        stores.fetch(path, name, said["size"])
    return Copy(name, os.path.getsize(name), time.monotonic(), _version_of(said))


def _evict() -> None:
    """Removes the copies used longest ago."""
    while len(_copies) > KEPT or (
        len(_copies) > LAST and sum(copy.size for copy in _copies.values()) > ROOM
    ):
        _forget(_copies.popitem(last=False)[1])
