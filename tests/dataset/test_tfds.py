"""A data set opens in TensorFlow Datasets, and says there what it says here."""

import json
import shutil

import msgspec
import numpy as np
import pytest

from tests.commands import ROOT, SMALL, TINY, run
from tests.folders import lay
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset import tfds_files, verify
from unet_tfrecords.dataset.dataset_info import read_info
from unet_tfrecords.dataset.shards import read_tiles

tfds = pytest.importorskip("tensorflow_datasets")

# It asks protobuf in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:label:DeprecationWarning")


def opened(folder):
    return tfds.builder_from_directory(f"{folder}/tfds")


def tiles_of(folder, split):
    info = read_info(str(folder))
    for shard in info.splits[split].shards:
        yield from read_tiles(f"{folder}/{shard.name}", info.geometry)


def check_every_tile(folder):
    """What TensorFlow Datasets reads is what we read, tile by tile."""
    builder, info = opened(folder), read_info(str(folder))
    assert set(builder.info.splits) == {
        split for split, content in info.splits.items() if content.num_tiles
    }
    for split in builder.info.splits:
        own = {tile.key: tile for tile in tiles_of(folder, split)}
        count = 0
        for each in tfds.as_numpy(builder.as_dataset(split=split)):
            tile, count = own[each["key"].decode()], count + 1
            assert each["image"].dtype == tile.image.dtype
            np.testing.assert_array_equal(each["image"], tile.image)
            np.testing.assert_array_equal(each["label"][..., 0], tile.label)
            stored = each["weight"][..., 0] * info.geometry.weight_step
            np.testing.assert_allclose(stored, tile.weight, rtol=1e-6)
            np.testing.assert_array_equal(each["mean"], tile.mean)
            np.testing.assert_array_equal(each["std"], tile.std)
        assert count == len(own) == builder.info.splits[split].num_examples


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_every_tile_of_drawn_cells(cells, tmp_path, encoding):
    more = f"--config.data.image_encoding={encoding}"
    assert run("preprocess", *TINY, more, input=cells, output=tmp_path / "d") == 0
    check_every_tile(tmp_path / "d")


def test_a_folder_can_be_moved(shards_folder, tmp_path):
    shutil.copytree(shards_folder, tmp_path / "moved [1] {x}")
    check_every_tile(tmp_path / "moved [1] {x}")


@pytest.mark.slow
def test_every_tile_of_sixteen_bits_in_colour(tmp_path):
    rng = np.random.default_rng(0)
    frames = {}
    for number in range(6):
        image = rng.integers(0, 60_000, (90, 70, 3)).astype(np.uint16)
        frames[number] = image, (rng.random((90, 70)) > 0.5).astype(np.uint8)
    config = f"--config={ROOT}/configs/folder.py:cpu"
    more = "--config.model.channels=3", "--config.data.num_shards=2"
    where = {"input": lay(tmp_path / "in", frames), "output": tmp_path / "d"}
    assert run("preprocess", config, *SMALL, *more, **where) == 0
    assert opened(tmp_path / "d").info.features["image"].dtype == np.uint16
    check_every_tile(tmp_path / "d")


@pytest.mark.slow
def test_every_tile_of_real_cells(real_data, tmp_path):
    config = f"--config={ROOT}/configs/dic_hela.py:smoke"
    where = {"input": real_data / "DIC-C2DH-HeLa", "output": tmp_path / "d"}
    small = "--config.data.augmentations=1", "--config.data.sequences=('01',)"
    assert run("preprocess", config, *small, **where) == 0
    check_every_tile(tmp_path / "d")


def test_features_are_as_it_writes_them_itself(shards_folder):
    geometry = read_info(shards_folder).geometry
    size, window = (geometry.tile_size,) * 2, (geometry.output_size,) * 2
    image = tfds.features.Tensor(shape=(*size, 1), dtype=np.uint8, encoding="bytes")
    label = tfds.features.Image(
        shape=(*window, 1), dtype=np.uint8, encoding_format="png"
    )
    moment = tfds.features.Tensor(shape=(1,), dtype=np.float32)
    features = tfds.features.FeaturesDict(
        {
            "image": image,
            "label": label,
            "weight": label,
            "key": tfds.features.Text(),
            "mean": moment,
            "std": moment,
        }
    )
    with open(f"{shards_folder}/tfds/{tfds_files.FEATURES_NAME}") as file:
        assert json.load(file) == features.to_json()


def test_a_shard_that_is_none_has_no_tiles(shards_folder, tmp_path):
    info = read_info(shards_folder)
    train = info.splits["train"]
    gone, *shards = train.shards
    less = msgspec.structs.replace(train, shards=tuple(shards))
    info = msgspec.structs.replace(info, splits=info.splits | {"train": less})
    shutil.copytree(shards_folder, tmp_path / "d")
    (tmp_path / "d" / gone.name).unlink()
    tfds_files.write(str(tmp_path / "d"), info)
    builder = opened(tmp_path / "d")
    keys = {e["key"].decode() for e in tfds.as_numpy(builder.as_dataset(split="train"))}
    path = f"{shards_folder}/{shards[0].name}"
    assert keys == {tile.key for tile in read_tiles(path, info.geometry)}


def test_verify_compares_it_with_the_info(shards_folder, tmp_path):
    folder = tmp_path / "d"
    shutil.copytree(shards_folder, folder)
    path = folder / "tfds" / tfds_files.INFO_NAME
    path.write_text(path.read_text().replace('"train"', '"test"'))
    with pytest.raises(UserError, match="tfds/dataset_info.json: not as the info says"):
        verify.verify(str(folder))
    shutil.rmtree(folder / "tfds")  # as older versions wrote it
    assert verify.verify(str(folder)) > 0
