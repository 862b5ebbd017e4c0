"""A finished model under the next version number, where TensorFlow Serving polls.

A server must never load half a model, and two publishers must never share a number.
On a disk one rename does both: it fails where the number is taken. In a bucket nothing
is renamed: a number is claimed by creating an object that must not exist yet
(`if_generation_match=0`), outside of all version folders; then come variables and
assets, and last saved_model.pb, without which nothing can be loaded.
"""

import base64
import contextlib
import errno
import os
import re
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from typing import Any

import google_crc32c

from trainer.export.artefact_layout import GRAPH
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.storage import files, locks

CLAIMS = ".claims"  # no number, so that servers pass it over
MOST_TRIES = 1000  # version numbers taken by others since the folder was listed
UPLOADS_AT_ONCE = 8
TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)


@contextlib.contextmanager
def staging(destination: str) -> Iterator[str]:
    """A local folder to build a model in, on the destination's disk if it has one.

    What is left there at the end is removed.
    """
    remote = files.is_remote(destination)
    if remote and not destination.startswith("gs://"):
        raise UserError(f"{destination}: models are published to gs:// or a folder")
    with contextlib.ExitStack() as end:
        if remote:
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
      destination: the model's folder or gs:// prefix; versions lie inside.

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
    paths = files_below(folder)
    bucket, prefix = _bucket_and_prefix(destination)
    with _explained(destination):
        number = claim(bucket, prefix)
        inside = f"{prefix}{number}/"
        print(
            f"uploading {len(paths)} files to gs://{bucket.name}/{inside}",
            file=sys.stderr,
        )
        try:
            for group in ([p for p in paths if p != GRAPH], [GRAPH]):
                _upload_group(bucket, folder, inside, group)
        except BaseException:
            _remove(bucket, folder, inside, paths)
            raise
    return f"gs://{bucket.name}/{inside.rstrip('/')}"


@contextlib.contextmanager
def _explained(destination: str) -> Iterator[None]:
    """Turns what Google's libraries raise into one line."""
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError
    from requests.exceptions import RequestException

    try:
        yield
    except (GoogleAPIError, GoogleAuthError, RequestException, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{destination}: not published: {reason}") from error


def _bucket_and_prefix(destination: str) -> tuple[Any, str]:
    """A bucket, and where in it versions lie: "" or ending in a slash."""
    from google.cloud import storage

    name, _, inside = destination.removeprefix("gs://").partition("/")
    if not re.fullmatch(r"[a-z0-9][-_.a-z0-9]{1,220}[a-z0-9]", name):
        raise UserError(f"{destination}: gs://BUCKET/PREFIX is needed, not {name!r}")
    with _explained(destination):
        bucket = storage.Client().bucket(name)
    return bucket, inside.strip("/") + "/" if inside.strip("/") else ""


def check(destination: str) -> None:
    """Finds out whether a bucket answers, before a model is built for it.

    Raises:
      UserError: no such bucket, or no right to look into it.
    """
    if destination.startswith("gs://"):
        bucket, prefix = _bucket_and_prefix(destination)
        with _explained(destination):
            names_in(bucket, prefix)


def files_below(folder: str) -> list[str]:
    """Paths of all files of a local folder, relative to it."""
    return sorted(
        os.path.relpath(os.path.join(place, name), folder)
        for place, _, names in os.walk(folder)
        for name in names
    )


def claim(bucket: Any, prefix: str) -> int:
    """A version number that nobody else has or will have."""
    from google.api_core.exceptions import PreconditionFailed

    taken = names_in(bucket, prefix) + names_in(bucket, f"{prefix}{CLAIMS}/")
    for number in _numbers_after(taken):
        with contextlib.suppress(PreconditionFailed):
            claim = bucket.blob(f"{prefix}{CLAIMS}/{number}")
            claim.upload_from_string(b"", if_generation_match=0)
            return number
    raise UserError(f"gs://{bucket.name}/{prefix}: no free version number")


def names_in(bucket: Any, prefix: str) -> list[str]:
    """Names directly below a prefix, of objects and of folders."""
    listing = bucket.client.list_blobs(bucket, prefix=prefix, delimiter="/")
    paths = [blob.name for blob in listing]  # folders are known once all is listed
    return [files.basename(path) for path in (*paths, *listing.prefixes)]


def _upload_group(bucket: Any, folder: str, inside: str, paths: list[str]) -> None:
    """Uploads files in parallel and compares what arrived with what lies here."""
    from google.cloud.storage import transfer_manager

    transfer_manager.upload_many_from_filenames(
        bucket,
        paths,
        source_directory=folder,
        blob_name_prefix=inside,
        # if_generation_match=0; what is there already is ours, of a request whose
        # answer was lost, and is compared like all others.
        skip_if_exists=True,
        worker_type=transfer_manager.THREAD,
        max_workers=UPLOADS_AT_ONCE,
        raise_exception=True,
        upload_kwargs={"checksum": "crc32c"},
    )
    arrived = {blob.name: blob.crc32c for blob in bucket.list_blobs(prefix=inside)}
    damaged = [
        path
        for path in paths
        if arrived.get(inside + path) != _crc32c(os.path.join(folder, path))
    ]
    if damaged:
        where = f"gs://{bucket.name}/{inside}"
        raise UserError(
            [f"{where}{path}: is not what was uploaded; try again" for path in damaged]
        )


def _crc32c(path: str) -> str:
    """A file's CRC32C as Google Cloud Storage tells it."""
    checksum = google_crc32c.Checksum()
    for block in files.read_blocks(path):
        checksum.update(block)
    return base64.b64encode(checksum.digest()).decode()


def _remove(bucket: Any, folder: str, inside: str, paths: list[str]) -> None:
    """What was uploaded of a version that will not be whole; its number stays used.

    Only what is ours by its bytes: anything else there is not ours to remove.
    """
    with contextlib.suppress(Exception):  # the first failure is the one to tell of
        for path in paths:
            blob = bucket.get_blob(inside + path)
            if blob and blob.crc32c == _crc32c(os.path.join(folder, path)):
                blob.delete(if_generation_match=blob.generation)
