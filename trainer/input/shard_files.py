"""A split's shards as files to read: whole, or said which is not; near by, if asked.

TensorFlow's reader says that something is damaged; this says which file, which byte and
what to do.
"""

import concurrent.futures
import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from tqdm import tqdm

from trainer.input.reading_order import ShardFile
from unet_tfrecords.command import bars
from unet_tfrecords.command.errors import UserError, warn
from unet_tfrecords.dataset.dataset_info import DatasetInfo
from unet_tfrecords.dataset.records import (
    Geometry,
    RecordScan,
    frame_record,
    parse,
    scan_records,
)
from unet_tfrecords.storage import files

MEMORY = "memory"  # a cache in main memory: a file system that Linux keeps there
MEMORY_FOLDER = "/dev/shm"  # noqa: S108  see cache_folder
COPIES_AT_ONCE = 8
ADVICE = "run preprocess again to replace it, or train with --on_bad_record=skip"


class Access(NamedTuple):
    """How shards are reached.

    Attributes:
      on_bad_record: fail, or skip: leave damaged records out, count and report them.
      cache: "" reads shards where they lie, those of a store through some copies;
        memory, or a folder of this machine, copies all beforehand.
      scratch: a folder that goes with the process.
      stream_gb: of copies of a store's shards, where there is no cache.
    """

    on_bad_record: str = "fail"
    cache: str = ""
    scratch: str = ""
    stream_gb: float = 20.0


def find_shards(
    info: DatasetInfo, folder: str, split: str, *, whole: bool = True
) -> list[ShardFile]:
    """The shards of a split that hold records.

    Args:
      info: the data set's.
      folder: the data set's.
      split: whose.
      whole: whether to check that each has the size it was written with.

    Raises:
      UserError: the split is empty, or shards are missing or cut: all of them.
    """
    entries = info.splits[split].shards
    if not entries:
        raise UserError(f"{folder}: the {split} split is empty; see config.data.split")
    sizes = files.sizes_in(folder)
    shards = [
        ShardFile(files.join(folder, entry.name), entry.records, entry)
        for entry in entries
    ]
    problems = [
        f"{shard.path}: missing; run preprocess again to make it"
        for shard in shards
        if shard.path not in sizes
    ]
    if not problems and whole:
        wrong = [shard for shard in shards if sizes[shard.path] != shard.entry.bytes]
        problems = damage(wrong, info.geometry)
    if problems:
        raise UserError(problems)
    return [shard for shard in shards if shard.records]


def damage(shards: Sequence[ShardFile], geometry: Geometry) -> list[str]:
    """What is wrong with shards, a line each; nothing where all are whole."""
    problems = []
    for shard in shards:
        found = list(_checked(shard.path, geometry))
        bad = [place.problem for place in found if place.record is None]
        if not bad and len(found) != shard.entry.records:
            bad = [f"{len(found)} records, not {shard.entry.records}, at its end"]
        problems += [f"{shard.path}: {problem}; {ADVICE}" for problem in bad]
    return problems


def _checked(path: str, geometry: Geometry) -> Iterator[RecordScan]:
    """Scans a shard: checksums, and whether each record is one of this schema."""
    with files.open_read(path) as file:
        for place in scan_records(file):
            if place.record is not None:
                try:
                    parse(place.record, geometry)
                except Exception as error:  # an image library raises what it likes
                    problem = f"bad record at byte {place.offset} ({error})"
                    place = RecordScan(place.offset, None, problem)
            yield place


def bring_near(
    shards: Sequence[ShardFile], geometry: Geometry, access: Access
) -> list[ShardFile]:
    """The same shards where and as they are to be read.

    Raises:
      UserError: no room for copies, or what arrived is not what was written.
    """
    near = list(shards)
    if access.on_bad_record == "skip":
        near = [_without_damage(shard, geometry, access.scratch) for shard in near]
    if access.cache:
        copies = _copies(set(near) & set(shards), access.cache)  # others are copies
        near = [s._replace(path=copies.get(s.path, s.path)) for s in near]
    return near


def _without_damage(shard: ShardFile, geometry: Geometry, scratch: str) -> ShardFile:
    """A shard's good records: itself, or a copy of those; what is left out is said."""
    whole = files.size_of(shard.path) == shard.entry.bytes
    if whole and files.sha256_of(shard.path) == shard.entry.sha256:
        return shard
    kept, copy = 0, os.path.join(scratch, shard.entry.name)
    with files.open_atomic(copy) as file:
        for place in _checked(shard.path, geometry):
            if place.record is None:
                warn(f"skipped: {shard.path}: {place.problem}")
            else:
                file.write(frame_record(place.record))
                kept += 1
    lost = shard.entry.records - kept
    warn(f"skipped: {shard.path}: {lost} of {shard.entry.records} records")
    return shard._replace(path=copy, records=kept)


def cache_folder(cache: str) -> str:
    if cache != MEMORY:
        return cache
    if not os.path.isdir(MEMORY_FOLDER):
        raise UserError(f"--cache={MEMORY}: no {MEMORY_FOLDER} here; give a folder")
    folder = os.path.join(MEMORY_FOLDER, f"unet-shards-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    # Everybody may write there: what lies there already may be another user's trap.
    if os.lstat(folder).st_uid != os.getuid():
        raise UserError(f"--cache={MEMORY}: {folder} is another user's; give a folder")
    return folder


def _copies(shards: Iterable[ShardFile], cache: str) -> dict[str, str]:
    """Copies shards into a folder of this machine; which copy is of which path.

    By content, so other runs find them.
    """
    folder = cache_folder(cache)
    if files.is_remote(folder):
        raise UserError(f"--cache={cache}: give a folder of this machine, or {MEMORY}")
    files.make_folder(folder)
    files.remove_unfinished(folder)  # in memory it would be lost until a restart
    copies = {s: os.path.join(folder, f"{s.entry.sha256}.tfrecord") for s in shards}
    todo = [
        (shard, copy)
        for shard, copy in copies.items()
        if not os.path.exists(copy) or files.sha256_of(copy) != shard.entry.sha256
    ]
    wanted = sum(shard.entry.bytes for shard, _ in todo)
    free = shutil.disk_usage(folder).free
    if wanted > 0.95 * free:
        raise UserError(
            f"--cache={cache}: {folder} has {free / 1e9:.1f} GB free, the shards need "
            f"{wanted / 1e9:.1f} GB"
        )
    bar = bars.bar(
        total=wanted, desc="caching", unit="B", unit_scale=True, disable=not todo
    )
    with bar, concurrent.futures.ThreadPoolExecutor(COPIES_AT_ONCE) as pool:
        list(pool.map(lambda job: _copy(job[0], job[1], bar), todo))
    return {shard.path: copy for shard, copy in copies.items()}


def _copy(shard: ShardFile, copy: str, bar: tqdm) -> None:
    """One shard; the bar moves at its end."""
    bring(shard, copy)
    bar.update(shard.entry.bytes)


def bring(shard: ShardFile, copy: str) -> None:
    """Copies a shard to this machine, and compares it with what was written.

    Raises:
      UserError: it is another.
    """

    def check(arrived: str) -> None:
        if files.sha256_of(arrived) != shard.entry.sha256:
            raise UserError(f"{shard.path}: is not what preprocess wrote; {ADVICE}")

    files.copy(shard.path, copy, check)
