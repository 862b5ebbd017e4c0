"""Remote files brought near: a stack of many pages is fetched once, not once a page."""

import collections
import tempfile
import threading
from typing import IO, Any

from preprocess import files, object_store

KEPT = 4  # copies a process keeps, the last used ones: a stack can have gigabytes

_copies: collections.OrderedDict[tuple, Any] = collections.OrderedDict()
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
        found = object_store.match(path)
        if not found:
            raise FileNotFoundError(f"{path}: no such object")
        size, changed = found[0].size_in_bytes, found[0].last_updated_in_seconds
        version = (path, size, changed)
        with _lock:
            if version in _copies:
                _copies.move_to_end(version)
                return open(_copies[version].name, "rb")
        copy = tempfile.NamedTemporaryFile(prefix="unet-near-")
        for block in files.read_blocks(path):
            copy.write(block)
        copy.flush()
        with _lock:
            _copies[version] = copy
            while len(_copies) > KEPT:
                _copies.popitem(last=False)[1].close()  # open ones can be read on
            return open(copy.name, "rb")
