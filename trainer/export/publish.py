"""A finished model under the next version number, where TensorFlow Serving polls.

A server must never load half a model, and two publishers must never share a number.
On a disk one rename does both: it fails where the number is taken. In a bucket nothing
is renamed: a number is claimed by creating an object that must not exist yet, outside
of all version folders; then come variables and assets, and last saved_model.pb, without
which nothing can be loaded.
"""

import contextlib
import errno
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator

from trainer.export.artefact_layout import GRAPH
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.storage import files, locks, stores

CLAIMS = ".claims"  # no number, so that servers pass it over
MOST_TRIES = 1000  # version numbers taken by others since the folder was listed
TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)


@contextlib.contextmanager
def staging(destination: str) -> Iterator[str]:
    """A local folder to build a model in, on the destination's disk if it has one.

    What is left there at the end is removed.
    """
    with contextlib.ExitStack() as end:
        if files.is_remote(destination):
            folder = tempfile.mkdtemp(prefix="unet-export-")
            end.callback(shutil.rmtree, folder, ignore_errors=True)
        else:
            folder = os.path.join(destination, files.TEMPORARY + uuid.uuid4().hex[:8])
            end.callback(shutil.rmtree, folder, ignore_errors=True)
            files.make_folder(destination)
            with locks.in_turn(destination):  # or another takes it, not yet locked,
                files.remove_unfinished(destination)  # for abandoned
                end.enter_context(locks.exclusive(folder))
        yield folder


def publish(folder: str, destination: str) -> str:
    """Moves or uploads a staged model to the next version number.

    Args:
      folder: what `staging(destination)` gave, filled.
      destination: the model's folder or prefix in a bucket; versions lie inside.

    Returns:
      The version's folder or prefix.

    Raises:
      UserError: it can't be written there, or arrived damaged.
    """
    if files.is_remote(destination):
        return _upload(folder, destination)
    os.remove(os.path.join(folder, files.LOCK_NAME))
    _flush(folder)
    for number in _numbers_after(os.listdir(destination)):
        final = os.path.join(destination, str(number))
        try:
            os.rename(folder, final)
        except OSError as error:
            if error.errno not in TAKEN:
                raise
            continue  # another publisher was quicker
        return final
    raise UserError(f"{destination}: no free version number")


def _numbers_after(names: list[str]) -> range:
    """Version numbers to try, rising.

    >>> _numbers_after(["1", "12", ".unfinished-3"])[0]
    13
    """
    newest = max((int(name) for name in names if name.isdecimal()), default=0)
    return range(newest + 1, newest + 1 + MOST_TRIES)


def _flush(folder: str) -> None:
    """What a power failure must not lose once the rename is seen."""
    for place, _, names in os.walk(folder):
        for path in (place, *(os.path.join(place, name) for name in names)):
            files.flush(path)


def _upload(folder: str, destination: str) -> str:
    names = files_below(folder)
    destination = destination.rstrip("/")
    inside = f"{destination}/{claim(destination)}"
    print(f"uploading {len(names)} files to {inside}/", file=sys.stderr)
    sent: list[str] = []
    try:
        for group in ([name for name in names if name != GRAPH], [GRAPH]):
            stores.side_by_side(lambda name: _send(folder, inside, name, sent), group)
    except BaseException:
        with contextlib.suppress(Exception):  # the first failure is the one to tell of
            files.remove(sent)
        raise
    return inside


def check(destination: str) -> None:
    """Finds out whether a bucket answers, before a model is built for it.

    Raises:
      UserError: no such bucket, or no right to look into it.
    """
    if files.is_remote(destination):
        versions_in(destination)


def files_below(folder: str) -> list[str]:
    """Paths of all files of a local folder, relative to it."""
    return sorted(
        os.path.relpath(os.path.join(place, name), folder)
        for place, _, names in os.walk(folder)
        for name in names
    )


def claim(destination: str) -> int:
    """A version number that nobody else has or will have.

    Args:
      destination: a prefix in a bucket, without a slash at its end.
    """
    for number in _numbers_after(versions_in(destination)):
        with contextlib.suppress(FileExistsError):
            stores.put(b"", f"{destination}/{CLAIMS}/{number}", new=True)
            return number
    raise UserError(f"{destination}: no free version number")


def versions_in(destination: str) -> list[str]:
    """Names of versions, and of claims to some, in a bucket."""
    claimed = files.glob_in(files.join(destination, CLAIMS), "*")
    return files.list_folders(destination) + [files.basename(path) for path in claimed]


def _send(folder: str, inside: str, name: str, sent: list[str]) -> None:
    """Uploads a file, and compares what arrived with what lies here.

    Args:
      folder, inside: where from, where to.
      name: relative to both.
      sent: takes the object's path, once it is ours to remove.

    Raises:
      UserError: it is another's, or not what was sent.
    """
    source, path = os.path.join(folder, name), f"{inside}/{name}"
    digest = files.sha256_of(source)
    try:
        stores.put(source, path, new=True)
        sent.append(path)
    except FileExistsError:
        # Ours, of a request whose answer was lost; or of somebody who claims nothing.
        if files.sha256_of(path) == digest:
            sent.append(path)
            return
    if files.sha256_of(path) != digest:
        raise UserError(f"{path}: is not what was uploaded; try again")
