"""Object stores and web servers by scheme, through fsspec: gs, s3, az, http(s).

What may pass (429, 503, a broken connection) is repeated with growing pauses. What does
not pass becomes one line here that says what to do.
"""

import contextlib
import functools
import itertools
import logging
import os
import random
import re
import time
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.storage.web_pages import links_below

WEB = ("http", "https")
LOGIN = {
    "gs": "`gcloud auth application-default login`, or GOOGLE_APPLICATION_CREDENTIALS="
    "KEY.json",
    "s3": "`aws configure`, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "az": "`az login` and AZURE_STORAGE_ACCOUNT_NAME, or AZURE_STORAGE_CONNECTION_"
    "STRING",
}
SAME = {"gcs": "gs", "s3a": "s3", "abfs": "az", "abfss": "az"}
NO_OBJECT = "{}: no such object, or no bucket"
NO_GOOD_ANSWER = (
    "no good answer after several tries ({}); run it again later, it goes on"
)
# Names of what clients raise, which aren't loaded to name them here.
NO_LOGIN = (
    "RefreshError",
    "DefaultCredentialsError",
    "NoCredentialsError",
    "PartialCredentialsError",
    "TokenRetrievalError",
    "CredentialUnavailableError",
    "ClientAuthenticationError",
)
NO_ANSWER = (
    "ClientError",  # aiohttp's; boto's of this name has a status
    "ConnectionError",
    "HTTPClientError",
    "ServiceRequestError",
    "ServiceResponseError",
    "Timeout",
    "TimeoutError",
    "TransportError",
)
MISTAKEN = (  # settings and names that can't be
    "InvalidEndpoint",
    "InvalidRegionError",
    "InvalidURL",
    "ParamValidationError",
    "ProfileNotFound",
    "SSLError",
    "ValueError",
)
KNOWN = {*NO_LOGIN, *NO_ANSWER, *MISTAKEN}
# S3's codes whose status says less.
LOGIN_CODES = (
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "TokenRefreshRequired",
)
TRY_LATER = 75  # EX_TEMPFAIL of sysexits.h: the same command may do better later
AT_ONCE = 16  # requests side by side
TRIES_S = 60.0  # what may pass is repeated for so long, and once in any case
SILENT_S = 30.0  # after which a server that says nothing is asked again
MOST_IN_MEMORY = 2**26  # bytes of an object that is read before it is written
ODD = "*?["  # in names: fsspec's patterns, and to its Azure client a query, a host


class Entry(NamedTuple):
    """An object, as a list has it.

    Attributes:
      path: with its scheme.
      size: bytes; None where a list does not say (a web server's).
      updated: s since 1970; 0 where a list does not say.
    """

    path: str
    size: int | None
    updated: float


def scheme_of(path: str) -> str:
    """gs, s3, ... of a path that has one."""
    return path.partition("://")[0]


def bucket_of(path: str) -> str:
    """A path's bucket, scheme included; of a web address its host.

    >>> bucket_of("gs://b/sets/HeLa")
    'gs://b'
    """
    return "/".join(path.split("/")[:3])


@functools.cache
def _system_of(scheme: str) -> Any:
    # The newer half of gcsfs asks each bucket of what kind it is, by another interface.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    # They log what they raise, with a traceback, and that there is no login.
    for name in ("gcsfs", "google.auth", "azure"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    import fsspec

    options: dict[str, Any] = {}
    if scheme in WEB:  # whose client ends a download after five minutes otherwise
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=SILENT_S)
        options = {"client_kwargs": {"timeout": timeout}}
    elif SAME.get(scheme, scheme) == "s3":
        patience = {"connect_timeout": 30, "read_timeout": SILENT_S}
        options = {"config_kwargs": {**patience, "retries": {"max_attempts": 1}}}
    # Not fsspec's own instance of before: its login and addresses may have changed.
    system = fsspec.filesystem(
        scheme, use_listings_cache=False, skip_instance_cache=True, **options
    )
    if SAME.get(scheme, scheme) == "s3":
        system.retries = 1  # it is repeated here
    return system


def _system(path: str) -> Any:
    """fsspec's file system of a path.

    Raises:
      UserError: there is none of this scheme.
    """
    scheme = scheme_of(path)
    if scheme not in (*LOGIN, *SAME, *WEB):
        raise UserError(
            f"{path}: no file system for {scheme}:// here; there are gs://, s3://, "
            "az:// and, to read, http:// and https:// (docs/storage.md)"
        )
    bucket = bucket_of(path).partition("://")[2]
    if not bucket:
        raise UserError(f"{path}: write {scheme}://BUCKET/FOLDER")
    if "@" in bucket and scheme not in WEB:
        raise UserError(
            f"{path}: the account is that of AZURE_STORAGE_ACCOUNT_NAME or "
            "AZURE_STORAGE_CONNECTION_STRING; write az://CONTAINER/FOLDER"
        )
    return _system_of(scheme)


def forget() -> None:
    """Forgets clients, which keep their logins and addresses, and known buckets."""
    _system_of.cache_clear()
    _known.clear()


_known: set[str] = set()  # buckets that are there
os.register_at_fork(after_in_child=forget)  # clients have threads, which stay behind


@contextlib.contextmanager
def explained(path: str) -> Iterator[None]:
    """Turns what a store's client raises into one line about a path.

    Args:
      path: of the object, or what is listed.

    Raises:
      FileNotFoundError: no such object.
      FileExistsError: there is one, where there must be none.
      UserError: no such bucket, no right, no login, no answer, no client for it here.
    """
    try:
        yield
    except (UserError, FileExistsError):
        raise
    except Exception as error:
        if os.path.isabs(str(getattr(error, "filename", ""))):
            raise  # of this machine's disk
        told = _origin(error)
        # That of the web calls everything so: its cause says what it was.
        is_missing = isinstance(error, FileNotFoundError) and not _status(told)
        if is_missing or _status(told) == 404:
            _check_bucket(path)
            raise FileNotFoundError(NO_OBJECT.format(path)) from error
        if reason := _reason(told, path):
            raise store_error(f"{path}: {reason}") from error
        raise


def _check_bucket(path: str) -> None:
    """Has a bucket that isn't there told as such, not as an object that isn't.

    Raises:
      UserError: it isn't.
    """
    bucket = bucket_of(path)
    if bucket in _known or scheme_of(path) in WEB:
        return
    try:
        _system(bucket).info(bucket)
    except FileNotFoundError as error:
        raise UserError(f"{path}: {reason_of(404, path)}") from error
    except Exception:  # who may read objects need not have the right to ask for it
        return
    _known.add(bucket)


def store_error(line: str) -> UserError:
    """Returns the error to raise; its exit code says whether to try again later."""
    error = UserError(line)
    if NO_GOOD_ANSWER.partition("(")[0] in line:
        error.exit_code = TRY_LATER
    return error


def _origin(error: BaseException) -> BaseException:
    """The first error of a store's client, out of those around it."""
    while not (_status(error) or _names(error) & KNOWN) and error.__cause__:
        error = error.__cause__
    return error


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _status(error: Any) -> int:
    """The HTTP status behind an error, 0 where there is none."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):  # boto's
        if answer.get("Error", {}).get("Code") in LOGIN_CODES:
            return 401
        return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if isinstance(error, PermissionError) or str(error).startswith("Forbidden: "):
        return 403  # gcsfs has no more of it
    for name in ("status_code", "status", "code"):
        code = getattr(error, name, 0)
        if str(code).isdecimal() and 400 <= int(code) < 600:
            return int(code)
    return 0


def _reason(told: BaseException, path: str) -> str:
    """Returns the problem and its fix; "" for an error that is not a store's."""
    status, names = _status(told), _names(told)
    if status:
        return reason_of(status, path, str(told))
    if names & set(NO_LOGIN) or "with credentials" in str(told):  # adlfs' ValueError
        return reason_of(401, path)
    if names & set(MISTAKEN):
        return f"refused: {' '.join(str(told).split())[:200]}"
    if names & set(NO_ANSWER):
        return NO_GOOD_ANSWER.format(type(told).__name__)
    return ""


def reason_of(status: int, path: str, said: str = "") -> str:
    """Returns the problem that an HTTP status means for a path, and its fix.

    Args:
      status: of the answer.
      path: of the object, or what is listed.
      said: the store's own words.
    """
    bucket, scheme = bucket_of(path), scheme_of(path)
    if status == 401:
        login = LOGIN.get(SAME.get(scheme, scheme), "such a server is not read here")
        return f"not logged in, or expired: {login}"
    if status == 403:
        return (
            f"access to {bucket} denied: the account wants the right to list, read and "
            "write objects there"
        )
    if status == 404:
        return f"no bucket {bucket}; create it, or fix the name"
    if status in (408, 429) or status >= 500:
        return NO_GOOD_ANSWER.format(status)
    return f"refused with {status}: {' '.join(said.split())[:200]}"


def _ask(path: str, call: Callable[[Any], Any]) -> Any:
    """Calls a path's file system, and retries what may pass.

    Clients repeat part of what may pass: that of the web nothing, Azure's no 429. A
    refused login is renewed once: gcsfs does so by its own clock alone.

    Raises:
      Exception: as `explained` has it.
    """
    with explained(path):
        try:
            return _repeated(path, call)
        except Exception as error:
            if _status(_origin(error)) != 401:
                raise
            forget()
            return _repeated(path, call)


def _repeated(path: str, call: Callable[[Any], Any]) -> Any:
    began = time.monotonic()
    for number in itertools.count():
        try:
            return call(_system(path))
        except Exception as error:
            reason = _reason(_origin(error), path)
            late = number and time.monotonic() - began > TRIES_S
            if late or store_error(reason).exit_code != TRY_LATER:
                raise
        time.sleep(min(15, 2**number / 2) * random.uniform(0.7, 1.3))


def _named(path: str) -> str:
    """Returns fsspec's name of a path: URLs are quoted.

    >>> _named("http://h/my cells/ü.png"), _named("http://h/a%20b.png?key=x")
    ('http://h/my%20cells/%C3%BC.png', 'http://h/a%20b.png?key=x')
    """
    return urllib.parse.quote(path, safe=":/?&=%+,;@~*[]") if _is_web(path) else path


def _as_people_say(name: str) -> str:
    """A quoted name as people write it; one that can't be undone stays quoted."""
    plain = urllib.parse.unquote(name)
    return name if set(plain) & set("%?#") else plain


def _is_azure(path: str) -> bool:
    return SAME.get(scheme_of(path), scheme_of(path)) == "az"


def _is_web(path: str) -> bool:
    return scheme_of(path) in WEB


def exists(path: str) -> bool:
    """Whether there is an object of this name."""
    try:
        info(path)
    except FileNotFoundError:
        return False
    return True


def info(path: str) -> dict[str, Any]:
    """What a store says of an object, `size` among it.

    Raises:
      FileNotFoundError: there is none.
    """
    found = _ask(path, lambda fs: fs.info(_named(path)))
    if found["type"] != "file":
        raise FileNotFoundError(NO_OBJECT.format(path))
    return found


def size_of(path: str) -> int:
    """Bytes of an object.

    Raises:
      FileNotFoundError: there is none.
    """
    size = info(path)["size"]
    return len(content(path)) if size is None else size  # a server need not say it


def below(folder: str) -> list[Entry]:
    """All objects below a folder, sorted by path."""
    if _is_web(folder):
        entries, folders = children(folder)
        deeper = [below(f"{folder.rstrip('/')}/{name}") for name in folders]
        return sorted(itertools.chain(entries, *deeper))
    inside = folder.rstrip("/") + "/"
    if _is_azure(folder):  # where an object of the folder's name would be all
        bucket, prefix = bucket_of(folder), inside[len(bucket_of(folder)) + 1 :]
        found = _ask(folder, lambda fs: fs.find(bucket, prefix=prefix, detail=True))
    else:
        found = _ask(folder, lambda fs: fs.find(inside, detail=True))
    if not found:
        _check_bucket(folder)
    entries = _entries(folder, found.values())
    if _is_azure(folder):  # where an empty object stands for a folder, under its name
        above = {e.path[:i] for e in entries for i, c in enumerate(e.path) if c == "/"}
        entries = [e for e in entries if e.size or e.path not in above]
    return entries


def matching(pattern: str) -> list[Entry]:
    """Objects that match a pattern with *, ? and [...], and ** for any folders."""
    from fsspec.utils import glob_translate

    plain = re.split(r"[*?[]", pattern, maxsplit=1)[0]
    if plain == pattern:
        return _one(pattern)
    folder = plain.rpartition("/")[0]
    deep = "/" in pattern[len(folder) + 1 :]
    found = below(folder) if deep else children(folder)[0]
    wanted = re.compile(glob_translate(pattern))
    return [entry for entry in found if wanted.match(entry.path)]


def _one(path: str) -> list[Entry]:
    """An object as a list would have it; none if it isn't there."""
    try:
        said = info(path)
    except FileNotFoundError:
        return []
    return [Entry(path, said["size"], _updated(said))]


def children(folder: str) -> tuple[list[Entry], list[str]]:
    """Objects and names of folders directly inside a folder, sorted.

    Raises:
      UserError: a web server lists no files there; an empty folder of a bucket is none.
    """
    if _is_web(folder):
        return _linked(folder)
    start = len(folder.rstrip("/")) + 1
    if _is_azure(folder):  # adlfs' list ends at an object that stands for the folder
        entries = below(folder)
        inside = [entry.path[start:] for entry in entries]
        names = {name.partition("/")[0] for name in inside if "/" in name}
        return [e for e in entries if "/" not in e.path[start:]], sorted(names)
    try:
        found = _ask(folder, lambda fs: fs.ls(folder.rstrip("/") + "/", detail=True))
    except FileNotFoundError:
        return [], []
    own = _without_scheme(folder)
    folders = [e["name"].rstrip("/") for e in found if e["type"] == "directory"]
    names = {name.rsplit("/", 1)[-1] for name in folders if name != own}
    return _entries(folder, found), sorted(names)


def _linked(folder: str) -> tuple[list[Entry], list[str]]:
    """`children` of a web server's folder: what its page links to."""
    folder = folder.rstrip("/")
    url = _named(folder + "/")
    try:
        page = _ask(folder, lambda fs: fs.cat_file(url))
    except FileNotFoundError:
        page = b""
    links = links_below(page.decode(errors="replace"), url)
    if not links and b"<" not in page:
        raise UserError(f"{folder}: the server lists no files there")
    names = [_as_people_say(link.removeprefix(url)) for link in links]
    files = [Entry(f"{folder}/{n}", None, 0.0) for n in names if not n.endswith("/")]
    return sorted(files), sorted(name[:-1] for name in names if name.endswith("/"))


def _without_scheme(path: str) -> str:
    from fsspec.core import strip_protocol

    return strip_protocol(_named(path)).rstrip("/")


def _entries(folder: str, found: Any) -> list[Entry]:
    """What fsspec has listed, with paths as they begin in the folder's own spelling."""
    start = _without_scheme(folder) + "/"
    entries = []
    for entry in found:
        name = entry["name"]
        if entry["type"] != "file" or not name.startswith(start) or name.endswith("/"):
            continue  # the folder itself, and objects that stand for folders
        path = f"{folder.rstrip('/')}/{name[len(start) :]}"
        entries.append(Entry(path, entry.get("size"), _updated(entry)))
    return sorted(entries)


def _updated(entry: dict[str, Any]) -> float:
    for name in ("mtime", "LastModified", "last_modified"):
        if (when := entry.get(name)) is not None:
            return when.timestamp()
    return 0.0


def content(path: str, start: int | None = None, end: int | None = None) -> bytes:
    """An object's bytes, or a slice of them.

    Raises:
      FileNotFoundError: there is none.
    """
    return _ask(path, lambda fs: fs.cat_file(_named(path), start=start, end=end))


def fetch(path: str, to: str, size: int | None = None) -> None:
    """Copies an object to a file of this machine, in place of what is there.

    A file that is open under that name may become another: on a failure, some clients
    remove it before the next try.

    Args:
      path, to: from and to.
      size: bytes of the object, where the caller knows them.

    Raises:
      FileNotFoundError: there is none.
    """
    if SAME.get(scheme_of(path), scheme_of(path)) == "gs":
        # gcsfs makes four requests to copy a file, two to read one.
        size = info(path)["size"] if size is None else size
        if size < MOST_IN_MEMORY:
            found = content(path)
            with open(to, "wb") as file:
                file.write(found)
            return
    # In parts, an object that changes meanwhile would arrive as a mixture.
    whole = {"max_concurrency": 1} if scheme_of(path) in ("s3", "s3a") else {}
    _ask(path, lambda fs: fs.get_file(_named(path), to, **whole))


def put(source: str | bytes, path: str, *, new: bool = False) -> None:
    """Makes an object: there, whole, at the end, or not at all.

    Args:
      source: a file of this machine, or the content.
      path: the object's.
      new: whether to fail if there is one, even if it appears meanwhile.

    Raises:
      FileExistsError: there is one already.
      UserError: of a name with characters that some clients read otherwise, too.
    """
    if _is_web(path):
        raise UserError(f"{path}: web servers are read only; give a disk or a bucket")
    if set(path) & set(ODD) or not path.isprintable():
        raise UserError(
            f"{path!r}: a name with * ? [ or a control character; write to another"
        )
    how: dict[str, Any] = {}
    if new:
        how = {"overwrite": False} if _is_azure(path) else {"mode": "create"}
    if isinstance(source, bytes):
        _ask(path, lambda fs: fs.pipe_file(path, source, **how))
    else:
        _ask(path, lambda fs: fs.put_file(source, path, **how))


def remove(paths: list[str]) -> None:
    """Removes objects; missing ones are fine."""

    def one(path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            _ask(path, lambda fs: fs.rm_file(path))

    side_by_side(one, paths)


def side_by_side(call: Callable[[str], Any], paths: list[str]) -> list[Any]:
    """Calls a function for each path, some at once; the results in their order."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(call, paths))
