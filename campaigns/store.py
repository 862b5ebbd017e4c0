"""The bucket that publish's trials share: a prefix for each."""

import contextlib
import os
import pathlib
import shutil

from google.cloud import storage

from tests.cloud import gcs

_open = contextlib.ExitStack()
_front: list[gcs.Front] = []


def environment() -> dict[str, str]:
    """How a command is led to the bucket, which is there from the first call on."""
    if not _front:
        _front.append(_open.enter_context(gcs.bucket()))
    return {"STORAGE_EMULATOR_HOST": _front[0].address, "GOOGLE_CLOUD_PROJECT": "test"}


def close() -> None:
    """Ends the bucket."""
    _front.clear()
    _open.close()


def _prefix(place: pathlib.Path) -> str:
    return f"{place.parent.name}/{place.name}/"


def place_of(place: pathlib.Path) -> str:
    """A trial's own prefix."""
    return f"gs://{gcs.BUCKET}/{_prefix(place)}".rstrip("/")


def _blobs(place: pathlib.Path) -> list[storage.Blob]:
    os.environ.update(environment())
    return list(storage.Client().list_blobs(gcs.BUCKET, prefix=_prefix(place)))


def fetch(place: pathlib.Path, folder: pathlib.Path) -> None:
    """Copies what lies there now, in place of an earlier copy."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for blob in _blobs(place):
        path = folder / blob.name.removeprefix(_prefix(place))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blob.download_as_bytes())


def generations(place: pathlib.Path) -> dict[str, int]:
    """Objects of whole versions, each with its generation."""
    blobs = {blob.name: blob.generation for blob in _blobs(place)}
    whole = {
        name.rpartition("/")[0] + "/"
        for name in blobs
        if name.endswith("/saved_model.pb")
    }
    return {n: g for n, g in blobs.items() if any(n.startswith(w) for w in whole)}
