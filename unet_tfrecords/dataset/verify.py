"""Reads a finished data set back and lists everything that is not as it says."""

import collections
import itertools
from collections.abc import Iterator

import numpy as np
from absl import flags

from unet_tfrecords.command import bars, cli, cli_flags, signals
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset import tfds_files, tiling
from unet_tfrecords.dataset.dataset_info import (
    DatasetInfo,
    Shard,
    SourcePart,
    read_info,
)
from unet_tfrecords.dataset.images import value_map
from unet_tfrecords.dataset.records import UNLABELLED, Tile
from unet_tfrecords.dataset.shards import read_tiles, shard_files
from unet_tfrecords.dataset.splits import SPLITS
from unet_tfrecords.storage import files, locks

# Share of labelled pixels; above, it is looked at again. Cells can be dense.
MOST_FOREGROUND = {"binary": 0.9, "instance": 0.93}


def verify(folder: str) -> int:
    """Checks a data set against its `dataset_info.json`.

    Every shard is there with its bytes and checksum, every record parses, counts and
    class frequencies hold, labels and weights lie in their bounds, validation and test
    are not augmented, the tiles cover each frame, and no frame is in two splits.

    Returns:
      How many tiles were read.

    Raises:
      UserError: all that is wrong, a line each.
    """
    with locks.reading(folder):
        return _verified(folder, read_info(folder))


def _verified(folder: str, info: DatasetInfo) -> int:
    shards = info.shards
    if problems := list(_wrong_parts(folder, info)):  # without them, no more than this
        paths = [(files.join(folder, shard.name), shard) for shard in shards]
        raise UserError(problems + [w for p, s in paths if (w := _wrong_file(p, s))])
    problems = [
        *_shared_frames(folder, info),
        *_strange_files(folder, info),
        *_wrong_sums(folder, info),
        *_wrong_tfds(folder, info),
        *_numbered_background(info),
    ]
    tiles = 0
    places: dict[str, list[str]] = collections.defaultdict(list)
    pixels = {split: np.zeros(UNLABELLED + 1, np.int64) for split in SPLITS}
    for shard in bars.bar(shards, unit="shard"):
        split, path = shard.split, files.join(folder, shard.name)
        if wrong := _wrong_file(path, shard):
            problems.append(wrong)
        if not files.exists(path):
            continue
        read = 0
        try:
            for tile in read_tiles(path, info.geometry):
                read += 1
                unit, _, place = tile.key.rpartition("/")
                places[f"{split}/{unit}"].append(place)
                pixels[split] += np.bincount(tile.label.ravel(), minlength=256)
                problems += _wrong_tile(path, tile, info, split)
        except (ValueError, IndexError, OSError) as error:
            problems.append(f"{path}: tile {read}: {error}")
        if read != shard.records:
            problems.append(f"{path}: {read} tiles, {shard.records} in the info")
        tiles += read
    problems += _wrong_places(folder, info, places)
    problems += _wrong_frequencies(info, pixels)
    if problems:
        raise UserError(problems)
    return tiles


def _shared_frames(folder: str, info: DatasetInfo) -> Iterator[str]:
    """Frames, by name or by content, that lie in two splits."""
    names = collections.defaultdict(list)
    contents = collections.defaultdict(set)
    for source in info.read_sources(folder):
        names[source.frame].append(source.split)
        image = source.files[0]
        contents[image.sha256, image.page].add(source.split)
    for key, splits in names.items():
        if len(splits) > 1:
            yield f"{key}: {len(splits)} times, in {' and '.join(splits)}"
    for (digest, page), shared in contents.items():
        if len(shared) > 1:
            yield f"image {digest[:12]}, page {page}: in {' and '.join(sorted(shared))}"


def _strange_files(folder: str, info: DatasetInfo) -> Iterator[str]:
    """Shards that lie there and belong to something else."""
    known = {entry.name for entry in info.files}
    for path in {*files.glob_in(folder, "*.tfrecord"), *shard_files(folder)}:
        if files.basename(path) not in known:
            yield f"{path}: not of this data set"


def _wrong_tfds(folder: str, info: DatasetInfo) -> Iterator[str]:
    """What TensorFlow Datasets would be told; data sets of older versions lack it."""
    for name, content in tfds_files.files_of(folder, info).items():
        path = files.join(folder, tfds_files.FOLDER, name)
        if files.exists(path) and not tfds_files.is_same(
            files.read_bytes(path), content
        ):
            yield f"{path}: not as the info says; remove it, or preprocess again"


def _wrong_parts(folder: str, info: DatasetInfo) -> Iterator[str]:
    """Files of sources that are not as they were written."""
    for part in info.source_parts:
        if wrong := _wrong_file(files.join(folder, part.name), part):
            yield wrong


def _wrong_file(path: str, entry: Shard | SourcePart) -> str | None:
    if not files.exists(path):
        return f"{path}: missing"
    try:
        if files.sha256_of(path) != entry.sha256:
            return f"{path}: its sha256 is not that in the info"
        if files.size_of(path) != entry.bytes:
            return f"{path}: {files.size_of(path)} bytes, {entry.bytes} in the info"
    except OSError as error:
        return f"{path}: cannot be read ({error.strerror or error})"
    return None


def _wrong_sums(folder: str, info: DatasetInfo) -> Iterator[str]:
    """Splits whose totals are not those of their shards, or of their sources."""
    frames: collections.Counter[str] = collections.Counter()
    for source in info.read_sources(folder):
        frames[source.split] += 1
        if not all(file.sha256 for file in source.files):
            yield f"{source.frame}: a source file without sha256"
    for split in SPLITS:
        content = info.splits[split]
        for name, found, expected in (
            ("num_tiles", content.num_tiles, sum(s.records for s in content.shards)),
            ("num_bytes", content.num_bytes, sum(s.bytes for s in content.shards)),
        ):
            if found != expected:
                yield f"{split}: {name} is {found}, its shards' {expected}"
        if content.num_frames != frames[split]:
            yield (
                f"{split}: num_frames is {content.num_frames}, its sources' "
                f"{frames[split]}"
            )


def _numbered_background(info: DatasetInfo) -> Iterator[str]:
    """Foreground that covers nearly all: masks whose background has a number."""
    data = info.config["data"]
    if data.get("layout") != "folder":
        return
    if any(value_map.parse(data.get("mask_values", "")).numbers.values()):
        return  # the config says which number is an object
    known = [split.class_pixels for split in info.splits.values() if split.class_pixels]
    share = 1 - sum(n[0] for n in known) / max(1, sum(map(sum, known)))
    most = MOST_FOREGROUND.get(data.get("labels", ""), 1)
    if share > most:
        yield (
            f"{share:.0%} of all labelled pixels are foreground: if background has a "
            "number in the masks, such as 1, preprocess again with "
            "config.data.mask_values=1=0 (1=0,0=1 if they are exchanged); if objects "
            "cover that much, with 1=1"
        )


def _wrong_tile(path: str, tile: Tile, info: DatasetInfo, split: str) -> Iterator[str]:
    """What is wrong with one tile, its place apart."""
    geometry, w0 = info.geometry, info.settings.border_weight
    output, where = geometry.output_size, f"{path}: {tile.key}"
    for name in ("label", "weight"):
        shape = getattr(tile, name).shape
        if shape != (output, output):
            yield f"{where}: {name} is {shape}, not {output} px square"
    known = tile.label[tile.label != UNLABELLED]
    if known.size and known.max() >= geometry.classes:
        yield f"{where}: class {known.max()}, of {geometry.classes} classes"
    if tile.weight.max() > w0 + geometry.weight_step:
        yield f"{where}: border weight {tile.weight.max():.2f}, at most {w0}"
    largest = 2**geometry.bits - 1
    fits = len(tile.mean) == len(tile.std) == geometry.channels
    bounded = (tile.mean >= 0).all() and (tile.mean <= largest).all()
    if not (fits and bounded and (tile.std > 0).all() and np.isfinite(tile.std).all()):
        yield f"{where}: mean {tile.mean}, standard deviation {tile.std}"
    if split != "train" and "/a00/" not in tile.key:
        yield f"{where}: augmented, in the {split} split"


def _wrong_places(
    folder: str, info: DatasetInfo, places: dict[str, list[str]]
) -> Iterator[str]:
    """Units that are missing, not asked for, or don't cover their frame."""
    output = info.geometry.output_size
    expected = {}
    for source in info.read_sources(folder):
        rows = tiling.tile_origins(source.height, output)
        columns = tiling.tile_origins(source.width, output)
        grid = sorted(f"r{r}c{c}" for r, c in itertools.product(rows, columns))
        train = source.split == "train"
        augmentations = info.settings.augmentations if train else 1
        for index in range(augmentations):
            expected[f"{source.split}/{source.frame}/a{index:02d}"] = grid
    for unit in sorted(expected.keys() | places.keys()):
        if unit not in expected:
            yield f"{unit}: not in the plan"
        elif sorted(places.get(unit, [])) != expected[unit]:
            yield (
                f"{unit}: {len(places.get(unit, []))} tiles do not cover the frame, "
                f"{len(expected[unit])} should"
            )


def _wrong_frequencies(
    info: DatasetInfo, pixels: dict[str, np.ndarray]
) -> Iterator[str]:
    for split in SPLITS:
        content = info.splits[split]
        counted = pixels[split][: info.geometry.classes].tolist()
        if content.shards and counted != list(content.class_pixels):
            yield f"{split}: class frequencies are not those in the info"


def _verify(values: flags.FlagValues, _: list[str]) -> None:
    tiles = verify(values.data)
    info = read_info(values.data)
    if info.labels_reason:
        print(f"labels {info.config['data']['labels']}: {info.labels_reason}")
    for note in info.notes:
        print(f"{note.text}: {note.files} frames, {note.example} first")
    print(f"{values.data}: {tiles} tiles, all as {values.data}/dataset_info.json says")


COMMAND = cli.Command(
    name="verify",
    summary=__doc__,
    flags=(cli_flags.string("data", "folder that preprocess made"),),
    run=_verify,
    required=("data",),
)


def run() -> None:
    """Entry point of `unet-verify` and `python -m unet_tfrecords.dataset.verify`."""
    signals.leave(cli.main(COMMAND))


if __name__ == "__main__":
    run()
