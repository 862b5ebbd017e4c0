"""The given folders and buckets: are they there, may one read, may one write?"""

import os
import uuid
from collections.abc import Iterator

from doctor.finding import Finding
from doctor.host import nearest


def look(input_path: str, output: str) -> Iterator[Finding]:
    """Looks at what is given; "" for what isn't."""
    if input_path:
        yield readable(input_path)
    if output:
        yield writable(output)


def readable(folder: str) -> Finding:
    """Whether there is something to read."""
    from preprocess import files, object_store
    from preprocess.errors import UserError

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
    if not os.path.isdir(folder):
        return Finding(what, "no such folder", "mend the path")
    if not os.access(folder, os.R_OK | os.X_OK):
        return Finding(what, "may not be read", f"chmod u+rx {folder}")
    return _filled(what, any(os.scandir(folder)), "can be read")


def _filled(what: str, filled: bool, says: str) -> Finding:
    return Finding(what, says) if filled else Finding(what, "empty", "mend the path")


def writable(folder: str) -> Finding:
    """Whether a file can be written there, read back and removed."""
    from preprocess import files
    from preprocess.errors import UserError

    what = f"output {folder}"
    if not files.is_remote(folder):
        if os.access(nearest(folder), os.W_OK | os.X_OK):
            return Finding(what, "can be written")
        return Finding(
            what, f"{nearest(folder)} may not be written", "another --output"
        )
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
    says, _, cure = line.rpartition(": ")[2].partition("; ")
    return (
        says or line,
        cure or f"see docs/storage.md for {folder.partition(':')[0]}://",
    )
