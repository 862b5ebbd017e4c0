"""The one record schema: a tile as a `tf.train.Example`, written and read here.

| feature  | content                                                                 |
|----------|-------------------------------------------------------------------------|
| `image`  | PNG or raw little-endian pixels, uint8 or uint16 [tile, tile, C]          |
| `label`  | PNG uint8 [output, output]: class, 255 unlabelled                        |
| `weight` | PNG uint8 [output, output]: border term in steps of `weight_step(w0)`    |
| `planes` | PNG uint8 [P * output, output]: the target's planes, one below another,  |
|          | where it has any                                                        |
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
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
)

from unet_tfrecords.dataset.images.png import decode_png, encode_png

SCHEMA_VERSION = 3  # 3: dataset_info.json of many frames says them in further files
UNLABELLED = 255  # class of pixels that nobody labelled; they cost nothing in the loss
ENCODINGS = ("png", "raw")
BYTES_FEATURES = ("image", "label", "weight", "key")
PLANES = "planes"
FLOAT_FEATURES = ("mean", "std")
MOST_BYTES = 2**31  # of a record: protobuf's own limit


Positive = Annotated[int, msgspec.Meta(gt=0)]


class Geometry(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a reader must know to parse the records and to build a fitting model.

    Attributes:
      tile_size, output_size: edges of a tile's image and of its label, px.
      depth: poolings of the network that the tiles are cut for.
      channels, classes: of the images and of the labels, background included.
      bits: of a pixel, 8 or 16.
      image_encoding: raw or png.
      weight_step: what one step of the stored border weight stands for.
      planes: of the target, beside the label.
    """

    tile_size: Positive
    output_size: Positive
    depth: Positive
    channels: Positive
    classes: Positive
    bits: Literal[8, 16]
    image_encoding: Literal["png", "raw"]
    weight_step: Annotated[float, msgspec.Meta(gt=0)]
    planes: Annotated[int, msgspec.Meta(ge=0)] = 0


class Tile(NamedTuple):
    """One training example.

    Attributes:
      key: readable identity.
      image: uint8 or uint16 [tile, tile, C].
      label: uint8 [output, output].
      weight: float32 [output, output], the border term.
      mean, std: float32 [C].
      planes: uint8 [output, output, P], of the target.
    """

    key: str
    image: np.ndarray
    label: np.ndarray
    weight: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    planes: np.ndarray = np.zeros((0, 0, 0), np.uint8)


def weight_step(w0: float) -> float:
    """What one step of the stored border weight stands for: 255 steps up to w0.

    >>> weight_step(10.0) < 0.05
    True
    """
    return (w0 or 1.0) / 255


# tensorflow/core/example/{example,feature}.proto, as far as records need them.
EXAMPLE_PROTO = """
name: "example.proto" package: "tensorflow" syntax: "proto3"
message_type {
  name: "BytesList"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES }
}
message_type {
  name: "FloatList"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT }
}
message_type {
  name: "Feature"
  field { name: "bytes_list" number: 1 type: TYPE_MESSAGE type_name: "BytesList" }
  field { name: "float_list" number: 2 type: TYPE_MESSAGE type_name: "FloatList" }
}
message_type {
  name: "Features"
  field { name: "feature" number: 1 label: LABEL_REPEATED type_name: "FeatureEntry" }
  nested_type {
    name: "FeatureEntry" options { map_entry: true }
    field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
    field { name: "value" number: 2 label: LABEL_OPTIONAL type_name: "Feature" }
  }
}
message_type {
  name: "Example"
  field { name: "features" number: 1 type_name: "Features" }
}
"""


@functools.cache
def example_class():
    """tensorflow.Example's message, built here so that no worker needs TensorFlow.

    A pool of its own keeps it apart from TensorFlow's where both are loaded.
    """
    file = text_format.Parse(EXAMPLE_PROTO, descriptor_pb2.FileDescriptorProto())
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
        **_encoded_planes(tile.planes),
        "key": tile.key.encode(),
    }
    example = example_class()()
    for name, value in content.items():
        example.features.feature[name].bytes_list.value.append(value)
    for name in FLOAT_FEATURES:
        values = getattr(tile, name).astype(np.float32).tolist()
        example.features.feature[name].float_list.value.extend(values)
    return example.SerializeToString(deterministic=True)


def _encoded_planes(planes: np.ndarray) -> dict[str, bytes]:
    """The feature of a target's planes, where it has any."""
    if not planes.shape[2]:
        return {}
    return {PLANES: encode_png(np.concatenate(np.moveaxis(planes, 2, 0)))}


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
    example = example_class()()
    try:
        example.ParseFromString(record)
    except Exception as error:
        raise ValueError(f"not a tf.train.Example: {error}") from error
    features = example.features.feature
    names = (*BYTES_FEATURES, *FLOAT_FEATURES, *([PLANES] if geometry.planes else []))
    if missing := [name for name in names if name not in features]:
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
        _decoded_planes(features, geometry),
    )


def _decoded_planes(features, geometry: Geometry) -> np.ndarray:
    size = geometry.output_size
    if not geometry.planes:
        return np.zeros((size, size, 0), np.uint8)
    below = decode_png(features[PLANES].bytes_list.value[0])
    return np.moveaxis(below.reshape(geometry.planes, size, size), 0, 2)


# --- The TFRecord file format: length, its checksum, the record, its checksum ---------


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def frame_record(record: bytes) -> bytes:
    """A record as it stands in a TFRecord file."""
    length = struct.pack("<Q", len(record))
    return b"".join([length, _masked_crc(length), record, _masked_crc(record)])


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
        (length,) = struct.unpack("<Q", header[:8])
        if header[8:] != _masked_crc(header[:8]) or length > MOST_BYTES:
            yield RecordScan(offset, None, f"corrupted length at byte {offset}")
            return
        body = file.read(length + 4)
        if len(body) < length + 4:
            yield RecordScan(offset, None, f"truncated at byte {offset}")
            return
        record = body[:-4]
        if body[-4:] == _masked_crc(record):
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
