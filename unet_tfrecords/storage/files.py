"""Paths, local or remote, behind one small set of functions.

Local paths use the operating system alone, anything with a scheme (gs://, s3://, az://,
http://) a store. A file appears whole or not at all.
"""

import contextlib
import fcntl
import fnmatch
import glob as local_glob
import hashlib
import os
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from typing import IO

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.storage import stores

LOCK_NAME = ".lock"
TEMPORARY = ".unfinished-"  # begins the name of every file not yet complete
ABANDONED_S = 24 * 3600  # after which what nobody has touched counts as left by a kill
MOST_BYTES = 255  # of a file's name, on every usual disk


def is_remote(path: str) -> bool:
    """Whether a path has a scheme.

    >>> is_remote("gs://bucket/a"), is_remote("runs/a")
    (True, False)
    """
    return "://" in path


def join(folder: str, *names: str) -> str:
    """Joins path segments, for local and remote paths alike."""
    if is_remote(folder):
        return "/".join([folder.rstrip("/"), *names])
    return os.path.join(folder, *names)


def basename(path: str) -> str:
    """The last segment of a path, trailing slashes apart.

    >>> basename("gs://b/sets/HeLa/")
    'HeLa'
    """
    return path.rstrip("/").rsplit("/", 1)[-1]


def exists(path: str) -> bool:
    """Whether there is a file (or, locally, a folder) of this name."""
    return stores.exists(path) if is_remote(path) else os.path.exists(path)


def is_file(path: str) -> bool:
    """Whether there is a file, and not a folder, of this name."""
    return stores.exists(path) if is_remote(path) else os.path.isfile(path)


def size_of(path: str) -> int:
    """Bytes of a file.

    Raises:
      FileNotFoundError: there is none.
    """
    return stores.size_of(path) if is_remote(path) else os.path.getsize(path)


def sizes_in(folder: str) -> dict[str, int]:
    """Bytes of each file directly inside a folder by path, hidden ones apart."""
    if not is_remote(folder):
        return {path: os.path.getsize(path) for path in list_files(folder)}
    sizes = {entry.path: entry.size for entry in stores.children(folder)[0]}
    shown = [path for path in sizes if not _is_hidden(basename(path))]
    untold = [path for path in shown if sizes[path] is None]
    asked = dict(zip(untold, stores.side_by_side(size_of, untold), strict=True))
    return {path: asked.get(path, sizes[path] or 0) for path in shown}


def updated(pattern: str) -> dict[str, float]:
    """When each file that matches was last changed, s since 1970, sorted by path.

    Args:
      pattern: with *, ? and [...], and ** for any folders.
    """
    if not is_remote(pattern):
        found = local_glob.glob(pattern)
        return {p: os.path.getmtime(p) for p in sorted(found) if os.path.isfile(p)}
    return {entry.path: entry.updated for entry in stores.matching(pattern)}


def updated_inside(pattern: str, ending: str) -> dict[str, float]:
    """When the newest file was changed in each folder that matches, by folder.

    Args:
      pattern: as in `updated`.
      ending: of the folders' names.
    """
    pattern = pattern.rstrip("/")
    if not is_remote(pattern):
        folders = [p for p in local_glob.glob(pattern) if p.lower().endswith(ending)]
        inside = {folder: updated_below(folder).values() for folder in folders}
        return {p: max(times) for p, times in sorted(inside.items()) if times}
    found: dict[str, float] = {}
    for entry in (
        stores.matching(f"{pattern}/**") if pattern.lower().endswith(ending) else []
    ):
        folder = entry.path[: entry.path.lower().find(f"{ending}/") + len(ending)]
        found[folder] = max(entry.updated, found.get(folder, 0.0))
    return found


def glob_in(folder: str, pattern: str) -> list[str]:
    """Files directly in a folder whose names match; its own name is no pattern."""
    if is_remote(folder):
        found = [entry.path for entry in stores.children(folder)[0]]
        return [p for p in found if fnmatch.fnmatchcase(basename(p), pattern)]
    found = local_glob.glob(join(local_glob.escape(folder), pattern))
    return sorted(path for path in found if os.path.isfile(path))


def list_files(folder: str) -> list[str]:
    """Files directly inside a folder, hidden ones apart, sorted by name."""
    return [p for p in glob_in(folder, "*") if not basename(p).startswith(".")]


def list_folders(folder: str) -> list[str]:
    """Names of the folders directly inside a folder, sorted."""
    if is_remote(folder):
        return stores.children(folder)[1]
    if not os.path.isdir(folder):
        return []
    return sorted(e.name for e in os.scandir(folder) if e.is_dir())


def updated_below(folder: str) -> dict[str, float]:
    """When each file below a folder was last changed; hidden ones apart."""
    if is_remote(folder):
        return {e.path: e.updated for e in _shown_below(folder)}
    paths = (join(folder, name) for name in list_below(folder))
    return {path: os.lstat(path).st_mtime for path in paths}


def all_below(folder: str) -> dict[str, tuple[int, float]]:
    """Bytes, and when it was last changed, of each file below; hidden ones too."""
    start = len(folder.rstrip("/")) + 1
    if is_remote(folder):
        found = stores.below(folder)
        return {e.path[start:]: (e.size or 0, e.updated) for e in found}
    paths = [join(to, name) for to, _, names in os.walk(folder) for name in names]
    known: dict[str, tuple[int, float]] = {}
    for path in sorted(paths):
        with contextlib.suppress(FileNotFoundError):  # gone meanwhile
            there = os.stat(path)
            known[path[start:]] = there.st_size, there.st_mtime
    return known


def list_below(folder: str) -> list[str]:
    """Paths, relative to a folder, of all files below it, sorted; hidden ones apart."""
    if is_remote(folder):
        start = len(folder.rstrip("/")) + 1
        return [entry.path[start:] for entry in _shown_below(folder)]
    return sorted(os.path.relpath(path, folder) for path in _walk(folder, set()))


def _shown_below(folder: str) -> list[stores.Entry]:
    start = len(folder.rstrip("/")) + 1
    return [e for e in stores.below(folder) if not _is_hidden(e.path[start:])]


def _walk(folder: str, above: set[str]) -> Iterator[str]:
    """Files below a local folder; a link that leads back up is not followed."""
    real = os.path.realpath(folder)
    if real in above or not os.path.isdir(folder):
        return
    for entry in os.scandir(folder):
        if _is_hidden(entry.name):
            continue
        if entry.is_dir():
            yield from _walk(entry.path, above | {real})
        elif entry.is_file() or entry.is_symlink():
            yield entry.path  # a broken link too: the error of reading it names it


def _is_hidden(path: str) -> bool:
    """Whether a file, or a folder around it, is for the system.

    >>> _is_hidden("a/.ipynb_checkpoints/b.png"), _is_hidden("__MACOSX/a.png")
    (True, True)
    """
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def open_read(path: str) -> contextlib.AbstractContextManager[IO[bytes]]:
    """Opens a file for reading, as stored (never decompressed by its name)."""
    if is_remote(path):
        return _open_copy(path)
    mode = os.stat(path).st_mode  # before it is opened: a pipe would wait forever
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UserError(f"{path}: a pipe or device, not a file; take it out")
    return open(path, "rb")


@contextlib.contextmanager
def _open_copy(path: str) -> Iterator[IO[bytes]]:
    """A copy on this machine's disk, which goes with the block."""
    handle, copy = tempfile.mkstemp(prefix="unet-near-")
    os.close(handle)
    try:
        with naming(copy):
            stores.fetch(path, copy)
        with open(copy, "rb") as file:  # not before: see `stores.fetch`
            yield file
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(copy)


def read_bytes(path: str) -> bytes:
    """The whole content of a file."""
    if is_remote(path):
        return stores.content(path)
    with open_read(path) as file:
        return file.read()


def read_range(path: str, start: int | None, end: int | None) -> bytes:
    """A part of a file's content, as of a slice; a negative start counts from its end.

    Raises:
      FileNotFoundError: there is no such file.
    """
    if is_remote(path):
        return stores.content(path, start, end)
    with open_read(path) as file:
        first, stop, _ = slice(start, end).indices(size_of(path))
        file.seek(first)
        return file.read(max(0, stop - first))


def read_blocks(path: str, size: int = 1 << 22) -> Iterator[bytes]:
    """The content of a file in blocks of at most `size` bytes."""
    with open_read(path) as file:
        while block := file.read(size):
            yield block


def sha256_of(path: str) -> str:
    """sha256 of a file, hexadecimal; a file of any size in bounded memory."""
    digest = hashlib.sha256()
    for block in read_blocks(path):
        digest.update(block)
    return digest.hexdigest()


def make_folder(path: str) -> None:
    """Makes a local folder and its parents; remote stores have no folders."""
    if not is_remote(path):
        os.makedirs(path, exist_ok=True)


def remove(paths: list[str]) -> None:
    """Removes files and, locally, whole folders; missing ones are fine."""
    remote = [p for p in paths if is_remote(p)]
    for path in set(paths) - set(remote):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
    stores.remove(remote)


def remove_folder(path: str) -> None:
    """Removes all below a folder, and the folder; a missing one is fine."""
    if is_remote(path):
        stores.remove([entry.path for entry in stores.below(path)])
    elif os.path.isdir(path):
        shutil.rmtree(path)


@contextlib.contextmanager
def open_atomic(path: str) -> Iterator[IO[bytes]]:
    """A binary file that appears under its name only when the block ends well.

    A remote one is made on this machine's disk, and sent as a whole at the end.
    """
    if is_remote(path):
        with tempfile.NamedTemporaryFile(prefix="unet-new-") as made:
            with naming(made.name):
                yield made  # type: ignore[misc]  # its wrapper has no type of a file
                made.flush()
            stores.put(made.name, path)
        return
    folder, name = path[: -len(basename(path))], basename(path)
    temporary = folder + _temporary(name)
    try:
        with naming(path, temporary):
            make_folder(folder or ".")
            with _open_locked(temporary) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(temporary, path)  # as long as it is locked
    except BaseException:
        with contextlib.suppress(Exception):
            remove([temporary])
        raise


def _temporary(name: str) -> str:
    """A name beside a file's own that nobody else takes, and no disk finds too long.

    >>> len(_temporary("n" * MOST_BYTES)), _temporary("a.png")[-6:]
    (255, '-a.png')
    """
    start = f"{TEMPORARY}{uuid.uuid4().hex[:8]}-"
    room = MOST_BYTES - len(start)
    if len(encoded := os.fsencode(name)) <= room:
        return start + name
    return start + encoded[-room:].decode(errors="ignore")


@contextlib.contextmanager
def naming(path: str, instead_of: str | None = None) -> Iterator[None]:
    """Has the errors of a disk name a file: those of writing and flushing name none.

    Args:
      path: the file's name for people.
      instead_of: what the system calls it.
    """
    try:
        yield
    except OSError as error:
        if error.errno and error.filename in (None, instead_of):
            error.filename = path
            del error.filename2  # of a rename: the same again
        raise


def flush(path: str) -> None:
    """Has the system write a local file, or a folder's entries, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_unfinished(folder: str, *, older_s: float = ABANDONED_S) -> None:
    """Removes what killed writers left in a local folder; others may be writing there.

    A writer's lock goes with its process: on a file, or on the lock's file in a folder
    that is being filled (see `exclusive`).

    Args:
      folder: where to look; not below.
      older_s: what has no lock, or lies on a disk without locks, goes when it was not
        touched for N seconds.
    """
    if is_remote(folder) or not os.path.isdir(folder):
        return
    for entry in list(os.scandir(folder)):
        # Another writer may be done with its own between our listing and our look.
        # What is another user's stays theirs.
        with contextlib.suppress(FileNotFoundError, PermissionError):
            if entry.name.startswith(TEMPORARY):
                age_s = time.time() - entry.stat(follow_symlinks=False).st_mtime
                if entry.is_symlink() or age_s >= older_s:  # we make no links
                    remove([entry.path])
                else:
                    _remove_abandoned(entry.path)


def _remove_abandoned(path: str) -> None:
    """Removes a file, or a folder, if its writer is known to be gone."""
    locked = os.path.join(path, LOCK_NAME) if os.path.isdir(path) else path
    if os.path.exists(locked):
        with open(locked, "rb+") as file, contextlib.suppress(BlockingIOError):
            if lock(file):
                remove([path])  # while it is locked: see _open_locked


def _open_locked(path: str) -> IO[bytes]:
    """A new file that `remove_unfinished` lets live: locked while it is open."""
    while True:
        file = open(path, "wb")
        # Somebody may be removing it, who found it before it was locked.
        with contextlib.suppress(BlockingIOError):
            lock(file)
            if is_at(file, path):
                return file
        file.close()


def write_bytes(path: str, content: bytes) -> None:
    """Writes a whole file, atomically."""
    if is_remote(path):
        stores.put(content, path)
        return
    with open_atomic(path) as file:
        file.write(content)


def write_new(path: str, content: bytes) -> None:
    """Writes a small file that does not exist yet, also if others try it meanwhile.

    Raises:
      FileExistsError: it is there.
    """
    if is_remote(path):
        stores.put(content, path, new=True)
        return
    make_folder(os.path.dirname(path) or ".")
    temporary = path[: -len(basename(path))] + _temporary(basename(path))
    with naming(path, temporary):
        try:
            with _open_locked(temporary) as file:
                file.write(content)
                file.flush()
                _link(temporary, path)
        finally:
            remove([temporary])


def _link(path: str, to: str) -> None:
    """Gives a file a second name, which nobody has yet.

    Raises:
      FileExistsError: somebody has.
    """
    try:
        os.link(path, to)
    except FileExistsError:
        raise
    except OSError:  # a disk that knows no second names, such as exFAT
        with open(to, "xb") as file, open(path, "rb") as content:
            shutil.copyfileobj(content, file)


def copy(
    source: str, to: str, check: Callable[[str], None] = lambda arrived: None
) -> None:
    """Copies a file, which appears whole; one of both paths is on this machine.

    Args:
      source, to: paths.
      check: is given what has arrived on this machine, before it appears.
    """
    if is_remote(to):
        stores.put(source, to)
        return
    with open_atomic(to) as file:
        if is_remote(source):
            stores.fetch(source, file.name)
            flush(file.name)  # which may be another file than ours: see there
        else:
            with open_read(source) as opened:
                shutil.copyfileobj(opened, file, 1 << 22)
                file.flush()
        check(file.name)


def lock(file: IO[bytes]) -> bool:
    """Locks a file; whether its disk has locks.

    Raises:
      BlockingIOError: another process has locked it.
    """
    return _locked(file, fcntl.LOCK_EX)


def lock_shared(file: IO[bytes]) -> bool:
    """The same, beside others who have it shared."""
    return _locked(file, fcntl.LOCK_SH)


def _locked(file: IO[bytes], how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def is_at(file: IO[bytes], path: str) -> bool:
    """Whether an open file is what a path leads to now."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    return False
