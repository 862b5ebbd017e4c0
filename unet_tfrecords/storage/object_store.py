"""Object stores, by scheme: gs://, s3://, az://, through Beam's file systems.

Beam's clients repeat what may pass (429, 503, a broken connection) with growing pauses
for two minutes. What does not pass becomes one line here that says what to do.
"""

import contextlib
import importlib
import re
from collections.abc import Iterator
from typing import IO, Any

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.storage import beam_filesystems

LOGIN = {
    "gs": "`gcloud auth application-default login`, or GOOGLE_APPLICATION_CREDENTIALS="
    "KEY.json",
    "s3": "`aws configure`, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
}
MISSING = {  # what Beam has no file system for, or none as installed here
    "gs": "pip install 'apache-beam[gcp]'",
    "s3": "pip install 'apache-beam[aws]'",
    "az": "Beam's name for it is azfs://ACCOUNT/CONTAINER/..., TensorFlow's az://",
    "azfs": "pip install 'apache-beam[azure]'",
    "hdfs": "pip install 'apache-beam[hadoop]'",
    "http": "fetch it first; only TensorFlow with tensorflow-io reads it",
    "https": "fetch it first; only TensorFlow with tensorflow-io reads it",
}
NEEDS = {"s3": "boto3", "azfs": "azure.storage.blob", "hdfs": "hdfs"}  # Beam's clients
NO_LOGIN = (
    "RefreshError",
    "DefaultCredentialsError",
    "NoCredentialsError",
    "PartialCredentialsError",
    "TokenRetrievalError",
)
NO_OBJECT = "{}: no such object, or no bucket"
NO_GOOD_ANSWER = (
    "no good answer after several tries ({}); run it again later, it goes on"
)
NO_ANSWER = ("RetryError", "ConnectionError", "HTTPClientError", "Timeout")

MISTAKEN = (  # what boto3 says of settings and names that can't be
    "ParamValidationError",
    "ProfileNotFound",
    "InvalidEndpoint",
    "InvalidRegionError",
    "SSLError",
)
TRY_LATER = 75  # EX_TEMPFAIL of sysexits.h: the same command may do better later
MOST_TOGETHER = 100  # objects that are removed by one call


def scheme_of(path: str) -> str:
    """gs, s3, ... of a path that has one."""
    return path.partition("://")[0]


def bucket_of(path: str) -> str:
    """A path's bucket, scheme included.

    >>> bucket_of("gs://b/sets/HeLa")
    'gs://b'
    """
    return "/".join(path.split("/")[:3])


def _systems(path: str):
    """Beam's file systems, ready for a path."""
    scheme = scheme_of(path)
    if scheme in NEEDS:  # Beam's file systems load without
        try:
            importlib.import_module(NEEDS[scheme])
        except ImportError as error:
            raise UserError(f"{path}: {_unknown(scheme)}") from error
    systems = beam_filesystems.file_systems(scheme)
    if scheme == "s3":
        bucket = bucket_of(path)
        with explained(bucket, lists=True):
            beam_filesystems.prepare_s3(bucket)
    return systems


@contextlib.contextmanager
def explained(path: str, *, lists: bool = False) -> Iterator[None]:
    """Turns what a store's client raises into one line about a path.

    Args:
      path: of the object, or what is listed.
      lists: whether objects are listed: then it is the bucket that isn't there.

    Raises:
      FileNotFoundError: no such object.
      UserError: no such bucket, no right, no login, no answer, no client for it here.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(NO_OBJECT.format(path)) from error
    except Exception as error:
        told = _origin(error)
        if _status(told) == 404 and not lists:
            raise FileNotFoundError(NO_OBJECT.format(path)) from error
        if reason := _reason(told, path):
            raise store_error(f"{path}: {reason}") from error
        raise


def store_error(line: str) -> UserError:
    """What to raise for such a line; its exit code says whether to try again later."""
    error = UserError(line)
    if NO_GOOD_ANSWER.partition("(")[0] in line:
        error.exit_code = TRY_LATER
    return error


def _origin(error: Any) -> Any:
    """The first error of a store's client, out of those around it; or a status."""
    for inner in (getattr(error, "exception_details", None) or {}).values():
        return _origin(inner)
    lost = "__context__" if type(error).__name__ == "S3ClientError" else "__cause__"
    for name in ("cause", lost):
        inner = getattr(error, name, None)
        if isinstance(inner, Exception) and not _status(error):
            return _origin(inner)
    return error


def _status(error: Any) -> int:
    """The HTTP status behind an error, 0 where there is none."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):  # boto3's
        return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    codes = (getattr(place, "status_code", 0) for place in (error, answer))
    for code in (error, getattr(error, "code", 0), *codes):
        if isinstance(code, int) and 400 <= code < 600:
            return int(code)
    return 0


def _reason(told: Any, path: str) -> str:
    """What is wrong and what mends it; "" where it is nothing of a store's."""
    status, names = _status(told), {kind.__name__ for kind in type(told).__mro__}
    if isinstance(told, ValueError) and "filesystem" in str(told).lower():
        return _unknown(scheme_of(path))
    if names & set(NO_LOGIN):
        return reason_of(401, path)
    if names & set(MISTAKEN) or str(told).startswith("Invalid endpoint"):
        return f"refused: {' '.join(str(told).split())[:200]}"
    if names & set(NO_ANSWER) and not status:
        return NO_GOOD_ANSWER.format(type(told).__name__)
    return reason_of(status, path, str(told))


def _unknown(scheme: str) -> str:
    how = f"; {MISSING[scheme]}" if scheme in MISSING else ""
    return f"no file system for {scheme}:// here{how}"


def reason_of(status: int, path: str, said: str = "") -> str:
    """What an HTTP status says of a path, and what mends it; "" where it is no error.

    Args:
      status: of the answer.
      path: of the object, or what is listed.
      said: the store's own words.
    """
    scheme, bucket = scheme_of(path), bucket_of(path)
    if status == 401:
        return f"not logged in, or expired: {LOGIN.get(scheme, 'log in')}"
    if status == 403:
        return (
            f"access to {bucket} denied: the account wants the right to list, read and "
            "write objects there"
        )
    if status == 404:
        return f"no bucket {bucket}; make it, or mend the name"
    if status == 429 or status >= 500:
        return NO_GOOD_ANSWER.format(status)
    return f"refused with {status}: {' '.join(said.split())[:200]}" if status else ""


def exists(path: str) -> bool:
    """Whether there is an object of this name."""
    with explained(path):
        return _systems(path).exists(path)


def match(pattern: str, limit: int | None = None) -> list[Any]:
    """Beam's metadata (path, size_in_bytes, ...) of what matches, sorted by path.

    Args:
      pattern: with *, ** and ?.
      limit: only so many of them, and a listing no longer than that needs.
    """
    with explained(pattern, lists=True):
        found = _systems(pattern).match([pattern], [limit])[0].metadata_list
    real = (entry for entry in found if not entry.path.endswith("/"))
    return sorted(real, key=lambda entry: entry.path)


def match_in(folder: str, pattern: str) -> list[Any]:
    """The same of what matches in a folder, whose own name is no pattern."""
    prefix = folder.rstrip("/") + "/"
    found = match(_any_of(prefix) + pattern)
    return [entry for entry in found if entry.path.startswith(prefix)]


def _any_of(name: str) -> str:
    """A pattern that a name matches, with others: Beam's patterns know no quoting."""
    return re.sub(r"[*\[]", "?", name)


def details(path: str) -> Any:
    """Beam's metadata of one object.

    Raises:
      FileNotFoundError: there is none.
    """
    found = [entry for entry in match(_any_of(path)) if entry.path == path]
    if not found:
        raise FileNotFoundError(NO_OBJECT.format(path))
    return found[0]


@contextlib.contextmanager
def open_read(path: str) -> Iterator[IO[bytes]]:
    """An object's bytes as they are stored, never decompressed by its name."""
    stored = beam_filesystems.uncompressed()
    with explained(path), _systems(path).open(path, compression_type=stored) as file:
        yield file


@contextlib.contextmanager
def create(path: str) -> Iterator[IO[bytes]]:
    """A new object, there once the block has ended; on an error, perhaps a part of it.

    Raises:
      UserError: of a name that is a pattern, too: to Beam it would be one, when the
        object is removed, and others would go.
    """
    if re.search(r"[*?\[]", path):
        raise UserError(f"{path}: a name with * ? or [; write to another")
    mime_type = "application/octet-stream"
    with explained(path, lists=True):  # if anything isn't there, it is the bucket
        file = _systems(path).create(path, mime_type=mime_type)
        try:
            yield file
            file.close()
        except BaseException:  # which is what to tell, not how the store takes it
            _abandon(file)
            raise


def _abandon(file: Any) -> None:
    """Lets go of a file whose writing has failed, once and for all."""
    with contextlib.suppress(Exception):
        getattr(file, "terminate", file.close)()  # Google's client can take it back
    # Or it would be sent when it is collected: for minutes, to a store that is gone.
    file.close = lambda: None


def rename(old: str, new: str) -> None:
    """Gives an object another name."""
    with explained(new):
        _systems(new).rename([old], [new])


def remove(paths: list[str]) -> None:
    """Removes objects; missing ones are fine."""
    for start in range(0, len(paths), MOST_TOGETHER):
        some = paths[start : start + MOST_TOGETHER]
        try:
            with explained(some[0]):
                _systems(some[0]).delete(some)
        except Exception:  # of those that aren't there, some stores complain
            for path in filter(exists, some):
                with contextlib.suppress(FileNotFoundError), explained(path):
                    _systems(path).delete([path])
