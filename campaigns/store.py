"""The bucket that publish's trials share: a prefix for each."""

import contextlib
import pathlib
import shutil

from tests.cloud import stores

_open = contextlib.ExitStack()
_front: list[stores.GoogleStore] = []


def environment() -> dict[str, str]:
    """How a command is led to the bucket, which is there from the first call on."""
    if not _front:
        _front.append(_open.enter_context(stores.google(pathlib.Path())))
    return _front[0].environment


def close() -> None:
    """Ends the bucket."""
    _front.clear()
    _open.close()


def _prefix(place: pathlib.Path) -> str:
    return f"{place.parent.name}/{place.name}/"


def place_of(place: pathlib.Path) -> str:
    """A trial's own prefix."""
    return f"gs://{stores.BUCKET}/{_prefix(place)}".rstrip("/")


def _names(place: pathlib.Path) -> list[str]:
    environment()
    return _front[0].names(_prefix(place))


def fetch(place: pathlib.Path, folder: pathlib.Path) -> None:
    """Copies what lies there now, in place of an earlier copy."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in _names(place):
        path = folder / name.removeprefix(_prefix(place))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_front[0].get(name))


def generations(place: pathlib.Path) -> dict[str, int]:
    """Objects of whole versions, each with its generation."""
    names = _names(place)
    graphs = [name for name in names if name.endswith("/saved_model.pb")]
    whole = tuple(name.rpartition("/")[0] + "/" for name in graphs)
    return {n: _front[0].generation(n) for n in names if n.startswith(whole)}
