"""`dataset_info.json`: what a finished data set says of itself.

Written last, so where it exists the data set is complete. Both halves read it through
`DatasetInfo`, which checks every field and type.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import msgspec

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.records import SCHEMA_VERSION, Geometry, Positive
from unet_tfrecords.dataset.splits import SPLITS
from unet_tfrecords.storage import files, json_files

INFO_NAME = "dataset_info.json"
AGAIN = "preprocess again with --overwrite"
# Names are joined with the folder, and the file may come from anybody: so a name can
# only be that of a file of the folder itself.
SHARD_NAME = (
    r"(?P<split>train|validation|test)-(?P<index>[0-9]{5,})-of-(?P<count>[0-9]{5,})"
    r"\.tfrecord"
)
PART_NAME = r"sources-[0-9]{5,}-of-[0-9]{5,}\.jsonl"
ShardName = Annotated[str, msgspec.Meta(pattern=rf"\A{SHARD_NAME}\Z")]
PartName = Annotated[str, msgspec.Meta(pattern=rf"\A{PART_NAME}\Z")]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


Count = Annotated[int, msgspec.Meta(ge=0)]


class Shard(msgspec.Struct, frozen=True, order=True):
    """One finished shard.

    Attributes:
      name: file name in the data set's folder.
      records: number of tiles.
      bytes: size of the file.
      sha256: of the whole file, hexadecimal.
      class_pixels: labelled pixels of each class.
      made_from: digest of everything that the shard is a function of.
    """

    name: ShardName
    records: Count
    bytes: Count
    sha256: Sha256
    class_pixels: tuple[int, ...]
    made_from: str

    @property
    def split(self) -> str:
        """train, validation or test."""
        return self.name.partition("-")[0]


class Split(msgspec.Struct, frozen=True):
    """Totals and shards of one split."""

    num_frames: Count
    num_tiles: Count
    num_bytes: Count
    class_pixels: tuple[int, ...]
    shards: tuple[Shard, ...]


class SourceFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file that a frame is made from; its path is relative to the input folder."""

    path: str
    page: int
    sha256: str  # "" for a file that could not be read; of a region, of its pixels
    window: tuple[int, int, int, int] | None = None  # the region, as `Page` has it


class Source(msgspec.Struct, frozen=True):
    """A frame of the data set: its key, split, size in px, and files, image first."""

    frame: str
    split: str
    height: Positive
    width: Positive
    files: Annotated[tuple[SourceFile, ...], msgspec.Meta(min_length=1)]


class SourcePart(msgspec.Struct, frozen=True, order=True):
    """A file with some of the sources of a large data set, one JSON line per frame."""

    name: PartName
    frames: Count
    bytes: Count
    sha256: Sha256


class Skipped(msgspec.Struct, frozen=True):
    """A frame that was left out, or with frame "" a file that belongs to none."""

    frame: str
    reasons: tuple[str, ...]
    files: tuple[SourceFile, ...]


class Note(msgspec.Struct, frozen=True):
    """Something that the owner of some files should look at."""

    text: str
    files: Count
    example: str  # one of the files


class Normalization(msgspec.Struct, frozen=True):
    """Mean and deviation of each channel over the data set, raw intensities."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class DataSettings(msgspec.Struct, frozen=True):
    """The settings in `config.data` that readers of a data set use."""

    name: str
    augmentations: Positive
    border_weight: float
    on_bad_frame: str


class DatasetInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Contents of `dataset_info.json`.

    Attributes:
      config: what the shards depend on, see `data_settings.data_config`.
      geometry: of the records.
      normalization: of the whole data set; None if each frame has its own.
      splits: train, validation and test.
      sources: of each frame; empty where they are in `source_parts`.
      source_parts: further files with the sources of a large data set.
      skipped: frames and files that were left out.
      unlabelled_images: images without labels.
      labels_reason: why masks are read as `config.data.labels` says.
      notes: what their owner should look at.
      software: version of each package that made the data set.
      times: when; not part of its identity.
    """

    schema_version: int = SCHEMA_VERSION
    config: dict[str, Any]
    geometry: Geometry
    normalization: Normalization | None
    splits: dict[str, Split]
    sources: tuple[Source, ...]
    source_parts: tuple[SourcePart, ...]
    skipped: tuple[Skipped, ...]
    unlabelled_images: int
    labels_reason: str = ""
    notes: tuple[Note, ...] = ()
    software: dict[str, str]
    times: dict[str, str] = {}

    def __post_init__(self):
        if set(self.splits) != set(SPLITS):
            raise ValueError(f"the splits must be {', '.join(SPLITS)}")
        for name, split in self.splits.items():
            for shard in split.shards:
                if shard.split != name:
                    raise ValueError(f"{shard.name!r} is not a file of {name}")
        if missing := {"seed", "data", "model"} - set(self.config):
            raise ValueError(f"config without {', '.join(sorted(missing))}")
        _ = self.settings  # checks them

    @property
    def settings(self) -> DataSettings:
        """The data's settings that readers use."""
        return msgspec.convert(self.config.get("data"), DataSettings)

    @property
    def shards(self) -> list[Shard]:
        """The shards of all splits."""
        return [shard for split in self.splits.values() for shard in split.shards]

    @property
    def files(self) -> list[Shard | SourcePart]:
        """The shards, and the files of sources."""
        return [*self.shards, *self.source_parts]

    def content(self) -> dict[str, Any]:
        """Returns it as JSON values, without times: equal data sets are equal."""
        content = json_files.as_read(msgspec.to_builtins(self))
        del content["times"]
        return content

    def write(self, folder: str) -> None:
        """Writes `dataset_info.json` with a digest of itself."""
        content = json_files.sealed(self.content() | {"times": self.times})
        json_files.write(files.join(folder, INFO_NAME), content)

    def read_sources(self, folder: str) -> Iterator[Source]:
        """Yields the source of each frame.

        Args:
          folder: of the data set, or of a run that learns from it.

        Raises:
          UserError: a file of sources is missing or not as it was written.
        """
        yield from self.sources
        for part in self.source_parts:
            path = files.join(folder, part.name)
            try:
                content = files.read_bytes(path)  # some 20 MB at most
                if hashlib.sha256(content).hexdigest() != part.sha256:
                    raise ValueError("not as it was written")
                sources = msgspec.json.Decoder(Source).decode_lines(content)
            except (
                FileNotFoundError,
                ValueError,
                RecursionError,
                msgspec.DecodeError,
            ) as error:
                raise UserError(f"{path}: missing or broken ({error})") from None
            yield from sources


def read_info(folder: str, *, cure: str = AGAIN) -> DatasetInfo:
    """Reads `dataset_info.json`.

    Args:
      folder: of a finished data set, or of a run that learns from it.
      cure: what to do if it is broken, for people.

    Raises:
      UserError: missing (the data set is not complete), broken, or of another schema.
    """
    path = files.join(folder, INFO_NAME)
    if not files.exists(path):
        raise UserError(
            f"{path}: missing, so the data set is not complete; "
            "run preprocess to its end, or give the right --data"
        )
    content = json_files.read(path, cure=cure)
    version = content.get("schema_version")
    try:
        if not isinstance(version, int):
            raise ValueError("without schema_version")
        if version == SCHEMA_VERSION:
            return msgspec.convert(content, DatasetInfo)
    except (ValueError, msgspec.ValidationError) as error:
        raise UserError(f"{path}: broken ({error}); {cure}") from None
    raise UserError(
        f"{path}: schema version {version}, this software reads {SCHEMA_VERSION}; "
        f"{AGAIN}"
    )


def write_sources(
    folder: str, index: int, count: int, sources: Iterable[Source]
) -> SourcePart:
    """Writes one of the files that say what a large data set is made from."""
    name = f"sources-{index:05d}-of-{count:05d}.jsonl"
    ordered = sorted(sources, key=lambda source: source.frame)
    encoder = msgspec.json.Encoder(order="sorted")
    content = b"".join(encoder.encode(source) + b"\n" for source in ordered)
    files.write_bytes(files.join(folder, name), content)
    digest = hashlib.sha256(content).hexdigest()
    return SourcePart(name, len(ordered), len(content), digest)
