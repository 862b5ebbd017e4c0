"""The `tile` signature as an ONNX file, for machines without TensorFlow or GPU."""

import json
import os
from typing import Any

from unet_tfrecords.command.extras import load_extra
from unet_tfrecords.storage import files

OPSET = 18  # the newest that tf2onnx 1.17 writes
METADATA = "unet"  # key of model.json's content within the file


def library():
    """tf2onnx."""
    return load_extra("tf2onnx", flag="--onnx", extra="onnx")


def convert(tile, about: dict[str, Any], path: str) -> None:
    """Writes a tile function of `signatures` as ONNX, any batch and legal size.

    Args:
      tile: the tf.function.
      about: what model.json holds; it travels in the file's metadata.
      path: of the file, local.
    """
    model, _ = library().convert.from_function(
        tile, input_signature=tile.input_signature, opset=OPSET
    )
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps(about, sort_keys=True)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    files.write_bytes(path, model.SerializeToString())
