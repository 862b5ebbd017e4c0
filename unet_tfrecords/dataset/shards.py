"""Shard files and `dataset_info.json`: what a finished data set says of itself."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.records import (
    SCHEMA_VERSION,
    Tile,
    frame_record,
    parse,
    read_records,
)
from unet_tfrecords.storage import files, json_files

PART_FRAMES = 50_000  # in a file, where not all are said in dataset_info.json itself
INFO_PARTS = (
    "config",
    "geometry",
    "normalization",
    "splits",
    "sources",
    "source_parts",
    "skipped",
)
INFO_NAME = "dataset_info.json"  # written last: where it is, the data set is complete
SHARD_NAME = re.compile(
    r"(train|validation|test)-(?P<index>[0-9]{5,})-of-(?P<count>[0-9]{5,})\.tfrecord"
)
PART_NAME = re.compile(r"sources-[0-9]{5,}-of-[0-9]{5,}\.jsonl")
SHA256 = re.compile(r"[0-9a-f]{64}")


class Shard(NamedTuple):
    """One finished shard.

    Attributes:
      split: train, validation or test.
      name: file name within the data set's folder.
      records: how many tiles it holds.
      bytes: its size.
      sha256: of the whole file, hexadecimal.
      class_pixels: labelled pixels of each class.
      made_from: digest of all that it is a function of.
    """

    split: str
    name: str
    records: int
    bytes: int
    sha256: str
    class_pixels: tuple[int, ...]
    made_from: str


class SourcePart(NamedTuple):
    """A file that says what some of a large data set's frames are made from.

    Attributes:
      name: file name within the data set's folder: JSON, a line a frame.
      frames: how many.
      bytes, sha256: of the file.
    """

    name: str
    frames: int
    bytes: int
    sha256: str


def shard_name(split: str, index: int, count: int) -> str:
    """The file name of a shard.

    >>> shard_name("train", 3, 16)
    'train-00003-of-00016.tfrecord'
    """
    return f"{split}-{index:05d}-of-{count:05d}.tfrecord"


def parts_for(frames: int) -> int:
    """Into how many files the sources of so many frames go; 0: `dataset_info.json`.

    >>> parts_for(50_000), parts_for(50_001), parts_for(10**7)
    (0, 2, 200)
    """
    return -(-frames // PART_FRAMES) if frames > PART_FRAMES else 0


def shard_files(folder: str) -> list[str]:
    """Files in a folder that are named as shards are, or as files of sources."""
    return [
        path
        for path in files.glob_in(folder, "*-of-*")
        if any(n.fullmatch(files.basename(path)) for n in (SHARD_NAME, PART_NAME))
    ]


def write_sources(
    folder: str, index: int, count: int, sources: Iterable[dict[str, Any]]
) -> SourcePart:
    """Writes one of the files that say what a large data set is made from."""
    name = f"sources-{index:05d}-of-{count:05d}.jsonl"
    lines = [
        json.dumps(source, sort_keys=True, separators=(",", ":"))
        for source in sorted(sources, key=lambda source: source["frame"])
    ]
    content = "".join(f"{line}\n" for line in lines).encode()
    files.write_bytes(files.join(folder, name), content)
    digest = hashlib.sha256(content).hexdigest()
    return SourcePart(name, len(lines), len(content), digest)


def read_sources(folder: str, info: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What a data set's frames are made from, one at a time.

    Args:
      folder: where the data set lies, or a run that learns from it.
      info: its `dataset_info.json`.

    Raises:
      UserError: a file of them is missing or not as it was written.
    """
    yield from info["sources"]
    for part in info["source_parts"]:
        path = files.join(folder, part["name"])
        try:
            content = files.read_bytes(path)  # of PART_FRAMES: some 20 MB
            if hashlib.sha256(content).hexdigest() != part["sha256"]:
                raise ValueError("not as it was written")
        except (FileNotFoundError, ValueError) as error:
            raise UserError(f"{path}: missing or broken ({error})") from None
        for line in content.splitlines():
            yield json_files.parse(line)


def write_shard(path: str, records: Iterable[bytes]) -> tuple[int, int, str]:
    """Writes a TFRecord file, whole or not at all, holding one record at a time.

    Returns:
      number of records, bytes, sha256.
    """
    digest, records_written, size = hashlib.sha256(), 0, 0
    with files.open_atomic(path) as file:
        for record in records:
            framed = frame_record(record)
            file.write(framed)
            digest.update(framed)
            records_written += 1
            size += len(framed)
    return records_written, size, digest.hexdigest()


def sidecar_path(folder: str, name: str) -> str:
    """Where a shard's own record lies until the data set is complete."""
    return files.join(folder, f"{files.TEMPORARY}{name}.json")


def write_sidecar(folder: str, shard: Shard) -> None:
    """Notes a finished shard."""
    note = json_files.sealed(shard._asdict())
    json_files.write(sidecar_path(folder, shard.name), note)


def kept_shard(folder: str, name: str, made_from: str) -> Shard | None:
    """An earlier run's shard, if it is made from the same and its checksum holds."""
    path = files.join(folder, name)
    if not files.exists(path) or not files.exists(sidecar_path(folder, name)):
        return None
    try:
        note = json_files.parse(files.read_bytes(sidecar_path(folder, name)))
        json_files.check_sealed(note)
        note.pop(json_files.OWN_DIGEST, None)  # notes of older versions have none
        shard = Shard(**note)
        shard = shard._replace(class_pixels=tuple(shard.class_pixels))
    except (ValueError, TypeError, AttributeError, FileNotFoundError):
        return None
    is_it = shard.name == name and shard.made_from == made_from
    return shard if is_it and shard.sha256 == files.sha256_of(path) else None


def damaged_files(folder: str, info: dict[str, Any]) -> list[str]:
    """Names of files that are not as `dataset_info.json` says, or not there."""
    entries = [shard for split in info["splits"].values() for shard in split["shards"]]
    damaged = []
    for entry in entries + info["source_parts"]:
        path = files.join(folder, entry["name"])
        if not files.exists(path) or files.sha256_of(path) != entry["sha256"]:
            damaged.append(entry["name"])
    return damaged


def reopen(folder: str, info: dict[str, Any]) -> None:
    """Makes a finished data set unfinished again, its shards noted as they were."""
    for split, content in info["splits"].items():
        for shard in content["shards"]:
            write_sidecar(folder, Shard(split=split, **shard))
    files.remove([files.join(folder, INFO_NAME)])


def read_info(folder: str) -> dict[str, Any]:
    """A finished data set's `dataset_info.json`.

    Raises:
      UserError: missing (the data set is not complete), broken or of another schema.
    """
    path = files.join(folder, INFO_NAME)
    if not files.exists(path):
        raise UserError(
            f"{path}: missing, so the data set is not complete; "
            "run preprocess to its end, or give the right --data"
        )
    try:
        info = json_files.parse(files.read_bytes(path))
        version = info["schema_version"]
        missing = [name for name in INFO_PARTS if name not in info]
        if version == SCHEMA_VERSION and missing:
            raise ValueError(f"without {', '.join(missing)}")
        json_files.check_sealed(info)
        if version == SCHEMA_VERSION:
            check_names(info)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: broken ({error}); preprocess again with --overwrite"
        ) from None
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path}: schema version {version}, this software reads {SCHEMA_VERSION}; "
            "preprocess again with --overwrite"
        )
    return info


def check_names(info: dict[str, Any]) -> None:
    """Checks that what becomes a path can only be a file of the data set's own folder.

    Shards' and parts' names are joined with the data set's folder, digests with that of
    a cache; `dataset_info.json` may come from anybody.

    Raises:
      ValueError: a name or digest that we never write.
      AttributeError, KeyError, TypeError: not of the schema.
    """
    entries = [(PART_NAME, "sources", part) for part in info["source_parts"]]
    for split, content in info["splits"].items():
        entries += [(SHARD_NAME, split, shard) for shard in content["shards"]]
    for pattern, beginning, entry in entries:
        name, digest = entry["name"], entry["sha256"]
        if not pattern.fullmatch(name) or name.partition("-")[0] != beginning:
            raise ValueError(f"{name!r} is no file of {beginning}")
        if not SHA256.fullmatch(digest):
            raise ValueError(f"{digest!r} is no sha256")


def read_tiles(path: str, geometry: dict[str, Any]) -> Iterator[Tile]:
    """The tiles of a shard, one at a time.

    Args:
      path: the shard.
      geometry: the part of that name of `dataset_info.json`.

    Raises:
      ValueError: a damaged shard, or a record of another schema.
    """
    size = geometry["tile_size"]
    with files.open_read(path) as file:
        for record in read_records(file):
            yield parse(
                record,
                encoding=geometry["image_encoding"],
                step=geometry["weight_step"],
                image_shape=(size, size, geometry["channels"]),
                bits=geometry["bits"],
            )
