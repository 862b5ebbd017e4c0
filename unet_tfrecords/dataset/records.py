"""The one record schema: a tile as a `tf.train.Example`, written and read here.

| feature  | content                                                                 |
|----------|-------------------------------------------------------------------------|
| `image`  | PNG or raw little-endian pixels, uint8 or uint16 [tile, tile, C]          |
| `label`  | PNG uint8 [output, output]: class, 255 unlabelled                        |
| `weight` | PNG uint8 [output, output]: border term in steps of `weight_step(w0)`    |
| `key`    | readable identity, `DATASET/SEQUENCE/FRAME/aNN/rROWcCOLUMN`              |
| `mean`   | float [C], the unchanged frame's mean in raw intensities                 |
| `std`    | float [C], its standard deviation                                       |

The trainer parses the same features in TensorFlow from the names given here.
"""

import functools
import struct
from collections.abc import Iterator
from typing import IO, Annotated, Literal, NamedTuple

import google_crc32c
import msgspec
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from unet_tfrecords.dataset.images.formats import decode_png, encode_png

SCHEMA_VERSION = 3  # 3: dataset_info.json of many frames says them in further files
UNLABELLED = 255  # class of pixels that nobody labelled; they cost nothing in the loss
ENCODINGS = ("png", "raw")
BYTES_FEATURES = ("image", "label", "weight", "key")
FLOAT_FEATURES = ("mean", "std")
MOST_BYTES = 2**31  # of a record: protobuf's own limit


Positive = Annotated[int, msgspec.Meta(gt=0)]


class Geometry(msgspec.Struct, frozen=True):
    """What a reader must know to parse the records and to build a fitting model.

    Attributes:
      tile_size, output_size: edges of a tile's image and of its label, px.
      depth: poolings of the network that the tiles are cut for.
      channels, classes: of the images and of the labels, background included.
      bits: of a pixel, 8 or 16.
      image_encoding: raw or png.
      weight_step: what one step of the stored border weight stands for.
    """

    tile_size: Positive
    output_size: Positive
    depth: Positive
    channels: Positive
    classes: Positive
    bits: Literal[8, 16]
    image_encoding: Literal["png", "raw"]
    weight_step: Annotated[float, msgspec.Meta(gt=0)]


class Tile(NamedTuple):
    """One training example.

    Attributes:
      key: readable identity.
      image: uint8 or uint16 [tile, tile, C].
      label: uint8 [output, output].
      weight: float32 [output, output], the border term.
      mean, std: float32 [C].
    """

    key: str
    image: np.ndarray
    label: np.ndarray
    weight: np.ndarray
    mean: np.ndarray
    std: np.ndarray


def weight_step(w0: float) -> float:
    """What one step of the stored border weight stands for: 255 steps up to w0.

    >>> weight_step(10.0) < 0.05
    True
    """
    return (w0 or 1.0) / 255


@functools.cache
def _example_class():
    """tensorflow.Example's message, built here so that no worker needs TensorFlow.

    Fields are numbered as in tensorflow/core/example/{example,feature}.proto.
    A pool of its own keeps it apart from TensorFlow's where both are loaded.
    """
    field = descriptor_pb2.FieldDescriptorProto
    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    file = descriptor_pb2.FileDescriptorProto(
        name="example.proto", package="tensorflow", syntax="proto3"
    )

    def message(name: str, *fields):
        added = file.message_type.add(name=name)
        for number, (field_name, label, kind) in enumerate(fields, start=1):
            entry = added.field.add(name=field_name, number=number, label=label)
            if isinstance(kind, str):
                entry.type, entry.type_name = field.TYPE_MESSAGE, f".tensorflow.{kind}"
            else:
                entry.type = kind
        return added

    message("BytesList", ("value", many, field.TYPE_BYTES))
    message("FloatList", ("value", many, field.TYPE_FLOAT))
    message("Int64List", ("value", many, field.TYPE_INT64))
    feature = message(
        "Feature",
        ("bytes_list", one, "BytesList"),
        ("float_list", one, "FloatList"),
        ("int64_list", one, "Int64List"),
    )
    feature.oneof_decl.add(name="kind")
    for entry in feature.field:
        entry.oneof_index = 0
    features = message("Features", ("feature", many, "Features.FeatureEntry"))
    pair = features.nested_type.add(name="FeatureEntry")
    pair.options.map_entry = True
    pair.field.add(name="key", number=1, label=one, type=field.TYPE_STRING)
    pair.field.add(
        name="value",
        number=2,
        label=one,
        type=field.TYPE_MESSAGE,
        type_name=".tensorflow.Feature",
    )
    message("Example", ("features", one, "Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName("tensorflow.Example")
    )


def encode(tile: Tile, *, encoding: str, step: float) -> bytes:
    """A tile as bytes; the same tile always gives the same bytes.

    Args:
      encoding: "png" or "raw", how the image's pixels are stored.
      step: `weight_step` of the data set.
    """
    quantised = np.clip(np.rint(tile.weight / step), 0, 255).astype(np.uint8)
    content = {
        "image": encode_image(tile.image, encoding),
        "label": encode_png(tile.label, flat=True),
        "weight": encode_png(quantised, flat=True),
        "key": tile.key.encode(),
    }
    example = _example_class()()
    for name, value in content.items():
        example.features.feature[name].bytes_list.value.append(value)
    for name in FLOAT_FEATURES:
        values = getattr(tile, name).astype(np.float32).tolist()
        example.features.feature[name].float_list.value.extend(values)
    return example.SerializeToString(deterministic=True)


def encode_image(image: np.ndarray, encoding: str) -> bytes:
    """Pixels as PNG (1, 3 or 4 channels) or as raw little-endian bytes (any)."""
    if encoding == "png":
        return encode_png(image)
    return image.astype(image.dtype.newbyteorder("<"), copy=False).tobytes()


def parse(record: bytes, geometry: Geometry) -> Tile:
    """Returns the tile that `encode` was given, weights within half a step.

    Raises:
      ValueError: not a record of this schema.
    """
    example = _example_class()()
    try:
        example.ParseFromString(record)
    except Exception as error:
        raise ValueError(f"not a tf.train.Example: {error}") from error
    features = example.features.feature
    if missing := [n for n in BYTES_FEATURES + FLOAT_FEATURES if n not in features]:
        raise ValueError(f"record without {', '.join(missing)}")
    image, label, weight, key = (
        features[name].bytes_list.value[0] for name in BYTES_FEATURES
    )
    mean, std = (
        np.array(features[name].float_list.value, np.float32) for name in FLOAT_FEATURES
    )
    size = geometry.tile_size
    if geometry.image_encoding == "raw":
        pixels = np.frombuffer(image, np.dtype(f"<u{geometry.bits // 8}"))
    else:
        pixels = decode_png(image)
    return Tile(
        key.decode(),
        pixels.reshape(size, size, geometry.channels),
        decode_png(label),
        decode_png(weight).astype(np.float32) * np.float32(geometry.weight_step),
        mean,
        std,
    )


# --- The TFRecord file format: length, its checksum, the record, its checksum ---------


def _masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame_record(record: bytes) -> bytes:
    """A record as it stands in a TFRecord file."""
    length = struct.pack("<Q", len(record))
    return b"".join(
        [
            length,
            struct.pack("<I", _masked_crc(length)),
            record,
            struct.pack("<I", _masked_crc(record)),
        ]
    )


class RecordScan(NamedTuple):
    """A place in a TFRecord file: a record, or what is wrong there."""

    offset: int
    record: bytes | None
    problem: str = ""


def scan_records(file: IO[bytes]) -> Iterator[RecordScan]:
    """All places of a TFRecord file, checksums checked, past damage where possible.

    A damaged record is passed over; after a damaged length nothing can be found.
    """
    offset = 0
    while header := file.read(12):
        if len(header) < 12:
            yield RecordScan(offset, None, f"truncated at byte {offset}")
            return
        length, crc = struct.unpack("<QI", header)
        if crc != _masked_crc(header[:8]) or length > MOST_BYTES:
            yield RecordScan(offset, None, f"corrupted length at byte {offset}")
            return
        body = file.read(length + 4)
        if len(body) < length + 4:
            yield RecordScan(offset, None, f"truncated at byte {offset}")
            return
        record = body[:-4]
        if struct.unpack("<I", body[-4:])[0] == _masked_crc(record):
            yield RecordScan(offset, record)
        else:
            yield RecordScan(offset, None, f"corrupted record at byte {offset}")
        offset += 16 + length


def read_records(file: IO[bytes]) -> Iterator[bytes]:
    """The records of a TFRecord file, checksums checked.

    Raises:
      ValueError: truncated or corrupted, with the offset in bytes.
    """
    for place in scan_records(file):
        if place.record is None:
            raise ValueError(place.problem)
        yield place.record
