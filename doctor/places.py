"""The given folders and buckets: are they there, may one read, may one write?"""

import errno
import os
import pathlib
import socket
import tempfile
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator

from doctor.finding import Finding
from doctor.host import nearest
from doctor.packages import INSTALL


def look(input_path: str, output: str) -> Iterator[Finding]:
    """Looks at what is given; "" for what isn't."""
    for path, looked in ((input_path, readable), (output, writable)):
        barred = [f for f in entrance(path) if f.cure] if "://" in path else []
        yield from barred  # else clients would try for minutes
        if path and not barred:
            yield _tried(looked, path)


def _tried(looked: Callable[[str], Finding], path: str) -> Finding:
    """A look, whatever its client raises."""
    try:
        return looked(path)
    except ImportError as error:
        return Finding(path, f"can't be looked at: {error}", INSTALL)
    except Exception as error:
        said = (str(error).splitlines() or [""])[0]
        says = f"{type(error).__name__}: {said}"[:300]
        return Finding(path, says, "mend the path; see docs/storage.md")


def entrance(path: str) -> Iterator[Finding]:
    """Whether there is somebody at a store's address, and a login for it."""
    scheme = path.partition("://")[0]
    if scheme not in ENTRANCES:
        return
    address, logged_in = ENTRANCES[scheme]()
    host = urllib.parse.urlsplit(address if "//" in address else f"//{address}")
    proxy = urllib.request.getproxies().get(host.scheme)
    if proxy and not urllib.request.proxy_bypass(host.hostname or ""):
        host = urllib.parse.urlsplit(proxy)
    port = host.port or (80 if host.scheme == "http" else 443)
    try:
        socket.create_connection((host.hostname, port), timeout=ANSWER_S).close()
    except OSError as error:
        says = f"{host.hostname}:{port} does not answer ({error.strerror or error})"
        yield Finding(path, says, "see to the network, its proxy and firewall")
        return
    if trouble := logged_in():
        from unet_tfrecords.storage.object_store import LOGIN

        yield Finding(path, trouble, LOGIN[scheme])


def _google() -> tuple[str, Callable[[], str]]:
    """Where Google's store is, and what is wrong with the login there."""
    emulated = os.environ.get("STORAGE_EMULATOR_HOST")

    def trouble() -> str:
        import google.auth
        import google.auth.transport.requests as transport

        if emulated and "GOOGLE_APPLICATION_CREDENTIALS" not in os.environ:
            return ""
        os.environ.setdefault("GCE_METADATA_TIMEOUT", "1")  # s; asked three times
        try:
            found, _ = google.auth.default(scopes=[SCOPE])
            if not emulated and not found.valid:
                found.refresh(transport.Request())
        except Exception as error:
            return f"not logged in: {str(error).splitlines()[0][:200]}"
        return ""

    return emulated or "https://storage.googleapis.com", trouble


def _amazon() -> tuple[str, Callable[[], str]]:
    """The same of Amazon's, or of who plays it."""
    region = os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    given = next((os.environ[name] for name in names if name in os.environ), "")

    def trouble() -> str:
        import boto3

        there = boto3.session.Session().get_credentials()
        return "" if there else "not logged in"

    return given or f"https://s3.{region}.amazonaws.com", trouble


SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
ANSWER_S = 5.0  # how long an address is waited for
ENTRANCES = {"gs": _google, "s3": _amazon}


def readable(folder: str) -> Finding:
    """Whether there is something to read."""
    from unet_tfrecords.command.errors import UserError
    from unet_tfrecords.storage import files, object_store

    what = f"input {folder}"
    if files.is_remote(folder):
        try:
            found = object_store.match(folder.rstrip("/") + "/**", limit=1)
            some = [files.read_bytes(entry.path) and entry.path for entry in found[:1]]
        except UserError as error:
            return Finding(what, *_told(error, folder))
        except FileNotFoundError as error:
            return Finding(what, str(error), "mend the path")
        return _filled(what, bool(some), "can be listed and read")
    try:
        return _filled(what, bool(os.listdir(folder)), "can be read")
    except OSError as error:
        cure = (
            f"chmod u+rx {folder}" if error.errno == errno.EACCES else "mend the path"
        )
        return Finding(what, f"{error.strerror}", cure)


def _filled(what: str, filled: bool, says: str) -> Finding:
    return Finding(what, says) if filled else Finding(what, "empty", "mend the path")


def writable(folder: str) -> Finding:
    """Whether a file can be written there, read back and removed."""
    from unet_tfrecords.command.errors import UserError
    from unet_tfrecords.storage import files

    what = f"output {folder}"
    if not files.is_remote(folder):
        above = pathlib.Path(folder).absolute()
        while not os.path.lexists(above):
            above = above.parent
        if not os.path.isdir(above):
            return Finding(what, f"{above} is a file", "another --output")
        try:
            with tempfile.TemporaryFile(dir=nearest(folder)):
                return Finding(what, "can be written")
        except OSError as error:
            says = f"{nearest(folder)}: {error.strerror}"
            return Finding(what, says, "chmod u+rwx it, or another --output")
    path = files.join(folder, f"{files.TEMPORARY}doctor-{uuid.uuid4().hex[:8]}")
    try:
        files.write_bytes(path, b"doctor")
        same = files.read_bytes(path) == b"doctor"
        files.remove([path])
    except UserError as error:
        return Finding(what, *_told(error, folder))
    except FileNotFoundError as error:
        return Finding(what, str(error), "make the bucket, or mend the path")
    if not same:
        return Finding(what, "gives back other bytes than it took", "another bucket")
    return Finding(what, "can be written, read and removed from")


def _told(error: Exception, folder: str) -> tuple[str, str]:
    """Splits a store's one line into what is wrong and what to do."""
    line = str(error).splitlines()[0]
    if line.startswith(folder):  # an object's path, which may be longer
        line = line[len(folder) :].partition(": ")[2]
    says, _, cure = line.partition("; " if "; " in line else ": ")
    return says, cure or f"see docs/storage.md for {folder.partition(':')[0]}://"
