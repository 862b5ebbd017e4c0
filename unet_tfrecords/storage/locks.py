"""Who may do what in a folder, among processes of one machine or of a shared disk.

A lock goes with its process, so a killed one leaves nothing locked. Object stores have
no locks.
"""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import IO

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.storage import files


@contextlib.contextmanager
def exclusive(folder: str) -> Iterator[None]:
    """Keeps other processes of this machine, or of a shared disk, out of a folder.

    The lock goes with the process, so a killed one leaves nothing locked. Remote
    stores have no locks: there, shards are whole objects that depend on the config
    alone, and a job of another config is refused by what the first one noted.

    Raises:
      UserError: another process is at work there, and which.
    """
    if files.is_remote(folder):
        yield
        return
    made = not os.path.isdir(folder)
    file = _own_lock(folder)
    try:
        _sign(file)
        yield
    finally:
        path = os.path.join(folder, files.LOCK_NAME)
        if files.is_at(file, path):
            os.remove(path)
        file.close()
        if made:
            with contextlib.suppress(OSError):
                os.rmdir(folder)  # where nothing was written, nothing is left


@contextlib.contextmanager
def shared(folder: str) -> Iterator[None]:
    """Keeps those out of a folder who want it `exclusive`, and not each other.

    Raises:
      UserError: another process has it to itself, and which.
    """
    if files.is_remote(folder):
        yield
        return
    file = _own_lock(folder, files.lock_shared)
    try:
        yield
    finally:
        path = os.path.join(folder, files.LOCK_NAME)
        with contextlib.suppress(BlockingIOError):  # others are still there
            if files.lock(file) and files.is_at(file, path):
                os.remove(path)
        file.close()


def _own_lock(folder: str, lock: Callable[[IO[bytes]], bool] = files.lock) -> IO[bytes]:
    """The lock's file, locked by this process if the disk has locks."""
    path = os.path.join(folder, files.LOCK_NAME)
    for attempt in reversed(range(20)):
        try:
            files.make_folder(folder)
            file = _open_lock(path)
        except (FileNotFoundError, FileExistsError):
            if not attempt:
                raise
            continue  # a holder that has just ended removed the folder
        try:
            if not lock(file) or files.is_at(file, path):
                return file
        except BlockingIOError:
            file.close()
            break
        file.close()  # its holder removed it between our open and our lock
    raise UserError(
        f"{folder}: another job is writing there{_signed(path)}; wait for its end"
    )


def _open_lock(path: str) -> IO[bytes]:
    # Not through a link, by which a packed folder could have another file opened.
    how = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    try:
        handle = os.open(path, how, 0o666)
    except PermissionError:  # another user's, which can be locked all the same
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    return open(handle, "ab", buffering=0)


def _sign(file: IO[bytes]) -> None:
    """Notes who holds a lock, for whom it keeps out to read."""
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    with contextlib.suppress(OSError):  # a full disk is reported where it matters
        file.truncate(0)
        file.write(
            f"process {os.getpid()} on {socket.gethostname()} since {now}".encode()
        )


def _signed(path: str) -> str:
    with contextlib.suppress(OSError):
        if text := files.read_bytes(path).decode(errors="replace"):
            return f" ({text})"
    return ""


def reading(folder: str) -> contextlib.AbstractContextManager[None]:
    """Has `unread` wait for nobody and refuse: this process needs the files there.

    Raises:
      UserError: a job is about to make them again.
    """
    return _flock(folder, fcntl.LOCK_SH, "is being made again; wait until that ends")


def unread(folder: str) -> contextlib.AbstractContextManager[None]:
    """Sees to it that nobody is reading what the block removes.

    Raises:
      UserError: somebody is.
    """
    told = (
        "is being read, by a training perhaps; wait for its end, or give another folder"
    )
    return _flock(folder, fcntl.LOCK_EX, told)


def in_turn(folder: str) -> contextlib.AbstractContextManager[None]:
    """Waits until no other process is in such a block: for files that belong together.

    Not in remote stores.
    """
    return _flock(folder, fcntl.LOCK_EX)


@contextlib.contextmanager
def _flock(folder: str, how: int, refusal: str = "") -> Iterator[None]:
    """Locks a local folder itself, which leaves nothing there.

    Waits for it unless there is a refusal. Where its disk knows no such locks (some
    network disks), it counts as free.

    Raises:
      UserError: the refusal, if another process has locked it.
    """
    with contextlib.ExitStack() as end:
        if not files.is_remote(folder):
            with contextlib.suppress(OSError):
                handle = os.open(folder, os.O_RDONLY)
                end.callback(os.close, handle)
                try:
                    fcntl.flock(handle, how | (fcntl.LOCK_NB if refusal else 0))
                except BlockingIOError:
                    raise UserError(f"{folder}: {refusal}") from None
        yield
