"""The preview shows what is in the data set, and escapes what came from outside."""

import json
import re
import shutil

import numpy as np
import pytest

from tests.commands import TINY, lines_of, run
from tests.pages import Page
from unet_tfrecords.dataset import dataset_info, preview
from unet_tfrecords.dataset.images.png import decode_png
from unet_tfrecords.dataset.pictures import COLOURS
from unet_tfrecords.dataset.records import UNLABELLED, Tile
from unet_tfrecords.storage import json_files


@pytest.fixture(scope="module")
def data(cells, tmp_path_factory):
    output = tmp_path_factory.mktemp("made") / "data"
    more = "--config.data.augmentations=4"
    assert run("preprocess", *TINY, more, input=cells, output=output) == 0
    return output


@pytest.mark.slow
def test_preview_writes_sheets_and_one_page(data, tmp_path, capsys):
    assert run("preview", data=data, output=tmp_path / "p", tiles=3) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "p/index.html")
    names = {path.stem for path in (tmp_path / "p").glob("*.png")}
    sheets = {"tiles-train", "tiles-validation", "tiles-test"}
    assert names == sheets | {"augmentations", "distributions"}
    for name in names:
        picture = decode_png((tmp_path / f"p/{name}.png").read_bytes())
        assert min(picture.shape[:2]) > 300 and picture[..., :3].std() > 5
    page = Page((tmp_path / "p/index.html").read_text())
    assert page.tags.count("img") == len(names)
    targets = [v for _, k, v in page.attributes if k in ("src", "href")]
    assert all(target.startswith("data:image/png") for target in targets)
    text = (tmp_path / "p/index.html").read_text()
    info = json.loads((data / dataset_info.INFO_NAME).read_text())
    train = info["splits"]["train"]
    row = f"<td>train<td>{train['num_frames']}<td>{train['num_tiles']}"
    assert row in re.sub(r"\s+", " ", text).replace(" <td>", "<td>")


@pytest.mark.slow
def test_augmentations_are_of_one_place(data):
    info = dataset_info.read_info(str(data))
    tiles = preview.augmentations_of_one_frame(str(data), info)
    assert [tile.key.split("/")[-2] for tile in tiles] == ["a00", "a01", "a02", "a03"]
    assert len({(t.key.split("/")[2], t.key.split("/")[-1]) for t in tiles}) == 1


def test_contours_lie_on_the_edges_of_the_labels():
    label = np.zeros((20, 20), np.uint8)
    label[5:15, 5:15] = 1
    label[:3] = UNLABELLED
    image = np.full((60, 60, 1), 100, np.uint8)
    image[0] = 200
    one = np.ones(1)
    tile = Tile("k", image, label, np.zeros((20, 20), np.float32), one, one)
    picture = preview.outlined(tile)
    drawn = (picture == COLOURS[0]).all(axis=2)
    assert drawn[5, 5:15].all() and drawn[5:15, 5].all()
    assert not drawn[8:12, 8:12].any() and not drawn[:3].any()
    assert (picture[:3] != picture[18, 18]).any()


@pytest.mark.slow
def test_text_from_outside_is_escaped(data, tmp_path):
    evil = "<script>alert(1)</script>"
    shutil.copytree(data, tmp_path / "d")
    path = tmp_path / "d" / dataset_info.INFO_NAME
    info = json.loads(path.read_text())
    info["sources"][0]["frame"] = info["sources"][0]["files"][0]["path"] = evil
    info["skipped"] = [{"frame": evil, "reasons": [evil], "files": []}]
    info["config"]["data"]["name"] = evil
    path.write_text(json.dumps(json_files.sealed(info)))
    assert run("preview", data=tmp_path / "d", output=tmp_path / "p") == 0
    text = (tmp_path / "p/index.html").read_text()
    assert "script" not in Page(text).tags and "&lt;script&gt;" in text


@pytest.mark.parametrize("broken", ["cut", "missing", "not complete"])
def test_damaged_data_sets_are_one_line(data, tmp_path, capfd, broken):
    shutil.copytree(data, tmp_path / "d")
    shard = next((tmp_path / "d").glob("train-00000*"))
    if broken == "cut":
        shard.write_bytes(shard.read_bytes()[:500])
    elif broken == "missing":
        shard.unlink()
    else:
        (tmp_path / "d" / dataset_info.INFO_NAME).unlink()
    assert run("preview", data=tmp_path / "d", output=tmp_path / "p") == 2
    [line] = lines_of(capfd, "preview")
    assert str(tmp_path / "d") in line
