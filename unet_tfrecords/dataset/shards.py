"""Shard files: names, writing, reading, and which of an earlier run can be kept."""

import hashlib
import re
from collections.abc import Iterable, Iterator

import msgspec

from unet_tfrecords.dataset.dataset_info import (
    INFO_NAME,
    PART_NAME,
    SHARD_NAME,
    DatasetInfo,
    Shard,
)
from unet_tfrecords.dataset.records import (
    Geometry,
    Tile,
    frame_record,
    parse,
    read_records,
)
from unet_tfrecords.storage import files, json_files

PART_FRAMES = 50_000  # in a file, where not all are said in dataset_info.json itself


def shard_name(split: str, index: int, count: int) -> str:
    """The file name of a shard.

    >>> shard_name("train", 3, 16)
    'train-00003-of-00016.tfrecord'
    """
    return f"{split}-{index:05d}-of-{count:05d}.tfrecord"


def parts_for(frames: int) -> int:
    """Into how many files the sources of N frames go; 0: `dataset_info.json`.

    >>> parts_for(50_000), parts_for(50_001), parts_for(10**7)
    (0, 2, 200)
    """
    return -(-frames // PART_FRAMES) if frames > PART_FRAMES else 0


def shard_files(folder: str) -> list[str]:
    """Files in a folder that are named as shards are, or as files of sources."""
    return [
        path
        for path in files.glob_in(folder, "*-of-*")
        if re.fullmatch(f"{SHARD_NAME}|{PART_NAME}", files.basename(path))
    ]


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
    note = json_files.sealed(json_files.as_read(msgspec.to_builtins(shard)))
    json_files.write(sidecar_path(folder, shard.name), note)


def kept_shard(folder: str, name: str, made_from: str) -> Shard | None:
    """Returns an earlier run's shard, if made from the same and its checksum holds."""
    path = files.join(folder, name)
    if not files.exists(path) or not files.exists(sidecar_path(folder, name)):
        return None
    try:
        note = json_files.parse(files.read_bytes(sidecar_path(folder, name)))
        json_files.check_sealed(note)
        shard = msgspec.convert(note, Shard)
    except (ValueError, TypeError, FileNotFoundError, msgspec.ValidationError):
        return None
    is_it = shard.name == name and shard.made_from == made_from
    return shard if is_it and shard.sha256 == files.sha256_of(path) else None


def damaged_files(folder: str, info: DatasetInfo) -> list[str]:
    """Returns names of files that are missing or not as `dataset_info.json` says."""
    damaged = []
    for entry in info.files:
        path = files.join(folder, entry.name)
        if not files.exists(path) or files.sha256_of(path) != entry.sha256:
            damaged.append(entry.name)
    return damaged


def reopen(folder: str, info: DatasetInfo) -> None:
    """Makes a finished data set unfinished again, its shards noted as they were."""
    for shard in info.shards:
        write_sidecar(folder, shard)
    files.remove([files.join(folder, INFO_NAME)])


def read_tiles(path: str, geometry: Geometry) -> Iterator[Tile]:
    """Yields the tiles of a shard.

    Args:
      path: the shard.
      geometry: of the data set.

    Raises:
      ValueError: a damaged shard, or a record of another schema.
    """
    with files.open_read(path) as file:
        for record in read_records(file):
            yield parse(record, geometry)
