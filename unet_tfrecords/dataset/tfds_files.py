"""What opens a data set in TensorFlow Datasets, beside its shards.

    tfds.builder_from_directory("OUTPUT/tfds").as_dataset(split="train")

Its two files lie in a folder of their own, for one has the name of ours; the shards are
read where they are. Written here as JSON, for no worker needs TensorFlow Datasets.
https://www.tensorflow.org/datasets/external_tfrecord
"""

import re
from collections.abc import Sequence
from typing import Any

from unet_tfrecords.dataset.dataset_info import SHARD_NAME, DatasetInfo, Shard
from unet_tfrecords.dataset.records import FLOAT_FEATURES, Geometry
from unet_tfrecords.storage import files, json_files

FOLDER = "tfds"
INFO_NAME, FEATURES_NAME = "dataset_info.json", "features.json"  # as it wants them
_FEATURES = "tensorflow_datasets.core.features"
CITATION = (
    "Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image "
    "Segmentation. MICCAI 2015, arXiv 1505.04597"
)


def write(output: str, info: DatasetInfo) -> None:
    """Writes both files.

    Args:
      output: the data set's folder.
      info: its `dataset_info.json`.
    """
    for name, content in files_of(output, info).items():
        json_files.write(files.join(output, FOLDER, name), content)


def remove(output: str) -> None:
    """Removes both files."""
    names = INFO_NAME, FEATURES_NAME
    files.remove([files.join(output, FOLDER, name) for name in names])


def files_of(output: str, info: DatasetInfo) -> dict[str, Any]:
    """The content of each file by name, a function of `dataset_info.json`."""
    splits = [
        _split(output, split, content.shards)
        for split, content in sorted(info.splits.items())
        if content.shards
    ]
    about = {
        "name": "unet_tiles",
        "version": f"{info.schema_version}.0.0",
        "description": f"Overlap tiles of {info.settings.name} for U-Net. "
        "label: class, 255 unlabelled; weight: border term in steps of "
        f"{info.geometry.weight_step}; mean, std: of the whole unchanged frame.",
        "citation": CITATION,
        "fileFormat": "tfrecord",
        "splits": splits,
    }
    return {INFO_NAME: about, FEATURES_NAME: _features(info.geometry)}


def is_same(found: bytes, content: Any) -> bool:
    """Whether a file is one of `files_of`, wherever its data set was written."""
    place = rb'"filepathTemplate": "[^"]*/'
    texts = (re.sub(place, b"", text) for text in (found, json_files.as_json(content)))
    return len(set(texts)) == 1


def _split(output: str, name: str, shards: Sequence[Shard]) -> dict[str, Any]:
    matches = [(re.fullmatch(SHARD_NAME, s.name), s.records) for s in shards]
    there = {int(match["index"]): records for match, records in matches if match}
    count = max(int(match["count"]) for match, _ in matches if match)
    # A shard whose frames are all bad is none.
    lengths = [there.get(index, 0) for index in range(count)]
    return {
        "name": name,
        "filepathTemplate": _folder(output) + "{SPLIT}-{SHARD_X_OF_Y}.{FILEFORMAT}",
        "numBytes": str(sum(shard.bytes for shard in shards)),
        "shardLengths": [str(length) for length in lengths],
    }


def _folder(output: str) -> str:
    """Where shards are as seen from `tfds/`; a store's paths know no way up.

    >>> _folder("runs/data"), _folder("gs://bucket/data")
    ('../', '/gs/bucket/data/')
    """
    if not files.is_remote(output):
        return "../"  # so that the folder can be moved
    scheme, _, path = output.rstrip("/").partition("://")
    return f"/{scheme}/{path}/".replace("{", "{{").replace("}", "}}")


def _features(geometry: Geometry) -> dict[str, Any]:
    tile, channels = geometry.tile_size, geometry.channels
    size, window = [tile, tile, channels], [geometry.output_size] * 2 + [1]
    pixels = f"uint{geometry.bits}"
    encoded = geometry.image_encoding == "png"
    features = {
        "image": _image(size, pixels) if encoded else _tensor(size, pixels, "bytes"),
        "label": _image(window, "uint8"),
        "weight": _image(window, "uint8"),
        "key": {"pythonClassName": f"{_FEATURES}.text_feature.Text", "text": {}},
        **{name: _tensor([channels], "float32", "none") for name in FLOAT_FEATURES},
    }
    return {
        "type": f"{_FEATURES}.features_dict.FeaturesDict",
        "content": {"features": features},
        "proto_cls": "tensorflow_datasets.FeaturesDict",
    }


def _image(shape: list[int], dtype: str) -> dict[str, Any]:
    content = {"shape": _shape(shape), "dtype": dtype, "encodingFormat": "png"}
    return {"pythonClassName": f"{_FEATURES}.image_feature.Image", "image": content}


def _tensor(shape: list[int], dtype: str, encoding: str) -> dict[str, Any]:
    content = {"shape": _shape(shape), "dtype": dtype, "encoding": encoding}
    return {"pythonClassName": f"{_FEATURES}.tensor_feature.Tensor", "tensor": content}


def _shape(dimensions: list[int]) -> dict[str, list[str]]:
    return {"dimensions": [str(number) for number in dimensions]}
