"""The given folders and buckets: can they be read, can they be written?"""

import os
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator

from doctor.finding import Finding
from doctor.host import nearest

ANSWER_S = 30.0  # for loading the client and the answer; then a store is silent


def look(input_path: str, output: str) -> Iterator[Finding]:
    """Looks at what is given; "" for what isn't."""
    if input_path:
        what, tried = f"input {input_path}", _tried(lambda: _read(input_path))
        yield Finding(
            what,
            tried or "can be read",
            "fix the path, or the right to read it" if tried else "",
        )
    if output:
        what, tried = f"output {output}", _tried(lambda: _write(output))
        cure = "another --output, or the right to write there" if tried else ""
        yield Finding(what, tried or "can be written", cure)


def _tried(act: Callable[[], None]) -> str:
    """Returns what went wrong, "" for nothing; a store's line says what to do."""
    problems: list[str] = []

    def attempt() -> None:
        try:
            act()
        except Exception as error:
            said = (str(error).splitlines() or [type(error).__name__])[0]
            problems.append(said[:300])

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(ANSWER_S)
    if thread.is_alive():
        return (
            f"no answer in {ANSWER_S:.0f} s: see to the network, its proxy, and the "
            "login (docs/storage.md)"
        )
    return problems[0] if problems else ""


def _read(folder: str) -> None:
    """Reads what is in a folder.

    Raises:
      Exception: it cannot, or there is nothing.
    """
    from unet_tfrecords.storage import files, stores

    if files.is_remote(folder):
        inside, folders = stores.children(folder)
        for entry in inside[:1]:
            files.read_bytes(entry.path)
        found = inside or folders
    else:
        found = os.listdir(folder)
    if not found:
        raise FileNotFoundError("empty")


def _write(folder: str) -> None:
    """Writes a file, reads it back and removes it; a local folder need not exist.

    Raises:
      Exception: it cannot.
    """
    from unet_tfrecords.storage import files

    if not files.is_remote(folder):
        for above in (folder, nearest(folder)):
            if os.path.lexists(above) and not os.path.isdir(above):
                raise NotADirectoryError(f"{above} is a file")
        with tempfile.TemporaryFile(dir=nearest(folder)):
            return
    path = files.join(folder, f"{files.TEMPORARY}doctor-{uuid.uuid4().hex[:8]}")
    files.write_bytes(path, b"doctor")
    same = files.read_bytes(path) == b"doctor"
    files.remove([path])
    if not same:
        raise OSError("gives back other bytes than it took")
