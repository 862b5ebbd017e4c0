"""The checker finds whatever is planted, and nothing else."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from tests.commands import mistakes, run
from tests.folders import flip
from unet_tfrecords.dataset import dataset_info, records, shards
from unet_tfrecords.dataset.verify import verify
from unet_tfrecords.storage import json_files


@pytest.fixture
def data(shards_folder, tmp_path):
    return pathlib.Path(shutil.copytree(shards_folder, tmp_path / "data"))


def found(folder) -> list[str]:
    return mistakes(verify, str(folder))


def edit_info(folder, change):
    path = folder / dataset_info.INFO_NAME
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(json_files.sealed(info)))


def rewrite(folder, name, change):
    """Rewrites a shard with each tile changed, checksums made to fit."""
    geometry = dataset_info.read_info(str(folder)).geometry
    settings = dict(encoding="raw", step=geometry.weight_step)
    with open(folder / name, "rb") as file:
        tiles = [
            records.parse(record, geometry) for record in records.read_records(file)
        ]
    written = [records.encode(tile, **settings) for tile in change(tiles)]
    count, size, digest = shards.write_shard(str(folder / name), written)

    def fit(info):
        for split in info["splits"].values():
            for shard in split["shards"]:
                if shard["name"] == name:
                    shard.update(records=count, bytes=size, sha256=digest)
            split["num_tiles"] = sum(shard["records"] for shard in split["shards"])
            split["num_bytes"] = sum(shard["bytes"] for shard in split["shards"])

    edit_info(folder, fit)


@pytest.mark.slow
def test_a_good_data_set_passes(shards_folder, capsys):
    assert run("verify", data=shards_folder) == 0
    assert f"{(5 * 2 + 1 + 2) * 49} tiles" in capsys.readouterr().out


TEST_SHARD = "test-00000-of-00002.tfrecord"


def flip_byte(folder):
    flip(folder / TEST_SHARD)


def alter(**changes):
    """A change of every tile's fields, by functions of their values."""

    def change(tiles):
        return [
            t._replace(**{k: f(getattr(t, k)) for k, f in changes.items()})
            for t in tiles
        ]

    return lambda folder: rewrite(folder, TEST_SHARD, change)


def move_frame(info):
    train = next(s for s in info["sources"] if s["split"] == "train")
    info["sources"].append({**train, "split": "test"})


def share_image(info):
    info["sources"][-1]["files"][0] = info["sources"][0]["files"][0]


def miscount(info):
    info["splits"]["train"]["class_pixels"][0] += 1


PLANTED = {
    "flipped byte": (flip_byte, ["its sha256 is not", "corrupted record at byte"]),
    "missing shard": (lambda f: (f / TEST_SHARD).unlink(), [TEST_SHARD + ": missing"]),
    "foreign shard": (
        lambda f: shutil.copy(f / TEST_SHARD, f / "test-00000-of-00009.tfrecord"),
        ["not of this data set"],
    ),
    "class too large": (alter(label=lambda v: v + 2), ["class 3, of 2", "frequencies"]),
    "augmented test": (
        alter(key=lambda v: v.replace("/a00/", "/a01/")),
        ["augmented, in the test split", "not in the plan", "do not cover"],
    ),
    "label of another size": (
        alter(label=lambda v: v[:10]),
        ["label is (10, 20), not 20 px", "frequencies"],
    ),
    "no deviation": (alter(std=np.zeros_like), ["standard deviation [0.]"]),
    "tile left out": (
        lambda f: rewrite(f, TEST_SHARD, lambda tiles: tiles[1:]),
        ["48 tiles do not cover the frame, 49 should", "frequencies"],
    ),
    "frame in two splits": (lambda f: edit_info(f, move_frame), ["in train and test"]),
    "image in two splits": (lambda f: edit_info(f, share_image), ["in test and train"]),
    "wrong frequencies": (
        lambda f: edit_info(f, miscount),
        ["train: class frequencies are not those in the info"],
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found(data, name):
    plant, expected = PLANTED[name]
    plant(data)
    text = "\n".join(found(data))
    for words in expected:
        assert words in text


def test_everything_is_listed_at_once(data, capsys):
    flip_byte(data)
    (data / "train-00000-of-00002.tfrecord").unlink()
    edit_info(data, move_frame)
    assert run("verify", data=data) == 2
    lines = capsys.readouterr().err
    for words in ("sha256 is not", "00000-of-00002.tfrecord: missing", "in train and"):
        assert words in lines
    assert "Traceback" not in lines


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda i: i["splits"]["train"].update(num_tiles=999), "num_tiles is 999"),
        (lambda i: i["splits"]["train"].update(num_bytes=9), "num_bytes is 9"),
        (lambda i: i["splits"]["train"]["shards"][0].update(bytes=1), "1 in the info"),
        (lambda i: i["splits"]["train"].update(num_frames=7), "num_frames is 7"),
        (lambda i: i["splits"]["train"].update(class_pixels=[]), "class frequencies"),
        (lambda i: i["sources"][0]["files"][0].update(sha256=""), "without sha256"),
        (lambda i: i.pop("sources"), "missing required field `sources`"),
        (
            lambda i: i["geometry"].pop("bits"),
            "field `bits` - at `$.geometry`",
        ),
        (lambda i: i.update(splits=[]), "broken ("),
        (lambda i: i["geometry"].update(bits=24), "broken ("),
        (lambda i: i["geometry"].update(output_size=0), "broken ("),
        (lambda i: i["sources"][0].update(files=[]), "broken ("),
        (lambda i: i["sources"][0].update(height=0), "broken ("),
        (lambda i: i["config"].pop("seed"), "config without seed"),
    ],
)
def test_an_info_that_lies_is_found_out(data, change, words):
    edit_info(data, change)
    assert [line for line in found(data) if words in line]


def test_a_folder_in_a_shards_place_is_one_of_the_lines(data):
    path = data / "train-00000-of-00002.tfrecord"
    path.unlink()
    path.mkdir()
    (data / "test-00000-of-00002.tfrecord").unlink()
    lines = found(data)
    assert [line for line in lines if str(path) in line and "cannot be read" in line]
    assert [line for line in lines if "test-00000-of-00002.tfrecord: missing" in line]


def test_a_mean_out_of_range_is_found(data):
    def change(tiles):
        return [tile._replace(mean=np.array([1e30], np.float32)) for tile in tiles]

    rewrite(data, "train-00000-of-00002.tfrecord", change)
    assert [line for line in found(data) if "mean [1.e+30]" in line]
