"""Remote files brought near: a stack of many pages is fetched once, not once a page."""

import collections
import tempfile
import threading
import time
from typing import IO, Any, NamedTuple

from preprocess import files

KEPT = 4  # copies a process keeps, the last used ones: a stack can have gigabytes
TRUSTED_S = 60.0  # so long a copy is taken for the file without asking the store


class Copy(NamedTuple):
    """A file on this machine's disk that goes when it is closed."""

    file: Any
    fetched: float


_copies: collections.OrderedDict[str, Copy] = collections.OrderedDict()
_locks: collections.defaultdict[str, threading.Lock] = collections.defaultdict(
    threading.Lock
)
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
    with _lock:
        lock = _locks[path]
    with lock:  # one thread fetches, others that want the same wait
        with _lock:
            there = _copies.get(path)
            if there and time.monotonic() - there.fetched < TRUSTED_S:
                _copies.move_to_end(path)
                return open(there.file.name, "rb")
        copy = tempfile.NamedTemporaryFile(prefix="unet-near-")
        for block in files.read_blocks(path):
            copy.write(block)
        copy.flush()
        with _lock:
            if stale := _copies.pop(path, None):
                stale.file.close()
            _copies[path] = Copy(copy, time.monotonic())
            while len(_copies) > KEPT:
                _copies.popitem(last=False)[1].file.close()  # open ones are read on
            return open(copy.name, "rb")
