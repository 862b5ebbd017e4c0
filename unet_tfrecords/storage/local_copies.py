"""Remote files brought near: a stack of many pages is fetched once, not once a page."""

import atexit
import collections
import contextlib
import functools
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from typing import IO, Any, NamedTuple

from unet_tfrecords.storage import files, stores

KEPT = 64  # copies that a process keeps, the last used ones; each is an open file
ROOM = 2**31  # bytes of them; but the last ones are kept however large they are
LAST = 4
TRUSTED_S = 60.0  # so long a copy is taken for the file without asking the store
LARGE = 2**23  # bytes, from which on it is asked whether there is another before that


class Copy(NamedTuple):
    """A file on this machine's disk that goes when it is closed.

    Attributes:
      file: the copy.
      size: its bytes.
      fetched: when it was last known to be the store's.
      version: of the store's; None of small ones, which are fetched again.
    """

    file: Any
    size: int
    fetched: float
    version: Any


_copies: collections.OrderedDict[str, Copy] = collections.OrderedDict()
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
            same = copy.version is not None and copy.version == _version(path)
            copy = copy._replace(fetched=time.monotonic()) if same else None
        copy = copy or _fetched(path)
        with _lock:
            if (before := _copies.pop(path, None)) and before.file is not copy.file:
                before.file.close()
            opened = open(copy.file.name, "rb")
            _copies[path] = copy
            _evict()
            return opened


@contextlib.contextmanager
def copied(folder: str, names: Iterable[str]) -> Iterator[str]:
    """A folder of this machine with files of a remote one, until the block ends.

    For readers of files alone, as TensorFlow's are of most stores.

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
    if not os.path.exists(copy.file.name):  # whoever cleans up there
        return False
    return time.monotonic() - copy.fetched < TRUSTED_S


def _version(path: str) -> str:
    return repr(sorted(stores.info(path).items()))


@functools.cache
def _folder() -> str:
    """Of this process' copies, those on their way included; it goes with it."""
    folder = tempfile.mkdtemp(prefix="unet-near-")
    atexit.register(_remove_all, folder)
    return folder


def _remove_all(folder: str) -> None:
    for copy in list(_copies.values()):
        copy.file.close()
    shutil.rmtree(folder, ignore_errors=True)


def _fetched(path: str) -> Copy:
    file = tempfile.NamedTemporaryFile(dir=_folder())
    stores.fetch(path, file.name)
    size = os.path.getsize(file.name)
    version = _version(path) if size >= LARGE else None
    return Copy(file, size, time.monotonic(), version)


def _evict() -> None:
    """Closes the copies used longest ago; open ones can be read on."""
    while len(_copies) > KEPT or (
        len(_copies) > LAST and sum(copy.size for copy in _copies.values()) > ROOM
    ):
        _copies.popitem(last=False)[1].file.close()
