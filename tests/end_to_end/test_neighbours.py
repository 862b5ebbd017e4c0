"""Frames that bring their neighbours: from files to tiles, scores, models, masks."""

import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tifffile

from configs import dic_hela, isbi2012
from tests.commands import TINY, run
from tests.dataset.layouts import frames_of
from unet_tfrecords.dataset import dataset_info, shards
from unet_tfrecords.dataset.images import layouts

# On a busy machine TensorFlow gives single pixels another last bit (docs/training.md).
LAST_BITS = 1e-6
BESIDE = ("--config.data.neighbours=(-1,1)", "--config.model.channels=3")
LEARN = ("--config.train.steps=4", "--config.train.validate_every_steps=2")


def stacked(images, place, offsets=(-1, 1)):
    """What the network is given of an image, by hand."""
    last = len(images) - 1
    beside = [images[min(max(place + offset, 0), last)] for offset in offsets]
    return np.stack([images[place], *beside], axis=-1)


def test_slices_bring_those_beside_them(em):
    data, frames = frames_of(isbi2012, em, neighbours=(-1, 1, 2))
    volume = tifffile.imread(em / "train-volume.tif")
    for place, frame in enumerate(frames):
        image, _ = layouts.check_frame(frame, data, channels=4, classes=2)
        np.testing.assert_array_equal(image, stacked(volume, place, (-1, 1, 2)))


def test_frames_of_a_video_bring_images_that_have_no_truth(cells, tmp_path):
    """And those beyond a gap in the numbers, as neighbours in time."""
    shutil.copytree(cells, tmp_path / "set")
    for name in ("01_GT/SEG/man_seg004.tif", "01/t003.tif", "01_GT/SEG/man_seg003.tif"):
        (tmp_path / "set" / name).unlink()
    given = {"labels": "gold", "neighbours": (-1, 1)}
    data, frames = frames_of(dic_hela, tmp_path / "set", **given)
    times = [0, 1, 2, 4, 5, 6, 7]
    images = [tifffile.imread(tmp_path / f"set/01/t{t:03d}.tif") for t in times]
    assert [frame.name for frame in frames] == [f"t{t:03d}" for t in times if t != 4]
    for frame in frames:
        image, _ = layouts.check_frame(frame, data, channels=3, classes=2)
        place = times.index(int(frame.name[1:]))
        np.testing.assert_array_equal(image, stacked(images, place))


def test_a_neighbour_of_another_size_is_named(cells, tmp_path, capsys):
    shutil.copytree(cells, tmp_path / "set")
    tifffile.imwrite(tmp_path / "set/01/t003.tif", np.zeros((40, 50), np.uint8))
    where = {"input": tmp_path / "set", "output": tmp_path / "data"}
    assert run("preprocess", *TINY, *BESIDE, **where) == 2
    said = capsys.readouterr().err
    assert "t003.tif: 40 x 50 px, uint8, but its neighbour" in said


def test_copies_in_two_splits_are_seen_whatever_is_beside_them(cells, tmp_path, capsys):
    shutil.copytree(cells, tmp_path / "set")
    images = tmp_path / "set/01"
    page = tifffile.imread(images / "t000.tif")
    tifffile.imwrite(images / "t007.tif", page, compression="zlib")
    where = {"input": tmp_path / "set", "output": tmp_path / "data"}
    assert run("preprocess", *TINY, *BESIDE, **where) == 2
    assert "t007.tif (test) is a copy of" in capsys.readouterr().err


def test_a_broken_neighbour_is_named_alone(cells, tmp_path, capsys):
    shutil.copytree(cells, tmp_path / "set")
    for name in ("01_GT/SEG/man_seg003.tif", "01_ST/SEG/man_seg003.tif"):
        (tmp_path / "set" / name).unlink(missing_ok=True)
    (tmp_path / "set/01/t003.tif").write_bytes(b"II*\0broken")
    where = {"input": tmp_path / "set", "output": tmp_path / "data"}
    assert run("preprocess", *TINY, *BESIDE, **where) == 2
    said = capsys.readouterr().err
    assert "01/t003.tif: cannot be read as an image" in said and "Page(" not in said


def test_a_blank_frame_between_others_is_refused(cells, tmp_path, capsys):
    shutil.copytree(cells, tmp_path / "set")
    blank = np.full_like(tifffile.imread(cells / "01/t003.tif"), 7)
    tifffile.imwrite(tmp_path / "set/01/t003.tif", blank)
    where = {"input": tmp_path / "set", "output": tmp_path / "data"}
    assert run("preprocess", *TINY, *BESIDE, **where) == 2
    assert "t003.tif: every pixel is 7" in capsys.readouterr().err


@pytest.mark.parametrize(
    "given, line",
    [
        (["--config.data.neighbours=(-1,True)"], "config.data.neighbours=(-1, True)"),
        (["--config.data.neighbours=(-1,101)"], "different offsets up to 100"),
        (["--config.data.neighbours=(-1,0)"], "config.data.neighbours=(-1, 0)"),
        (["--config.data.neighbours=(1,1)"], "config.data.neighbours=(1, 1)"),
        (["--config.data.neighbours=(-1,1)"], "config.model.channels=1: 3 images"),
        ([*BESIDE, "--config.data.layout=folder"], "layouts isbi and ctc"),
        ([*BESIDE, "--config.data.channels=(0,1,2)"], "=3 says for each image"),
    ],
)
def test_what_cannot_be_is_told(cells, tmp_path, capsys, given, line):
    where = {"input": cells, "output": tmp_path / "data"}
    assert run("preprocess", *TINY, *given, **where) == 2
    assert line in capsys.readouterr().err


@pytest.fixture(scope="module")
def road(cells, tmp_path_factory):
    """Data, a short training, its scores and its model."""
    place = tmp_path_factory.mktemp("neighbours")
    data, work = place / "data", place / "run"
    assert run("preprocess", *TINY, *BESIDE, input=cells, output=data) == 0
    assert run("train", *TINY, *BESIDE, *LEARN, data=data, workdir=work) == 0
    assert run("evaluate", workdir=work, input=cells) == 0
    where = {"workdir": work, "output": place / "model"}
    assert run("export", "--onnx", "--tile=108", **where) == 0
    return place


@pytest.mark.slow
def test_records_hold_the_images_side_by_side(road, cells):
    info = dataset_info.read_info(str(road / "data"))
    assert info.geometry.channels == 3
    images = [tifffile.imread(path) for path in sorted((cells / "01").glob("*.tif"))]
    seen = 0
    for shard in sorted((road / "data").glob("*.tfrecord")):
        for tile in shards.read_tiles(str(shard), info.geometry):
            name, unit, at = tile.key.split("/")[-3:]
            if unit == "a00" and at == "r54c54":  # in the frame's middle, not augmented
                given = stacked(images, int(name[1:]))
                np.testing.assert_array_equal(tile.image, given[34:94, 34:94])
                seen += 1
    assert seen == 8
    assert run("verify", data=road / "data") == 0


@pytest.mark.slow
def test_predict_gives_the_model_an_image_with_its_neighbours(road, cells, tmp_path):
    source = tmp_path / "in"
    shutil.copytree(cells / "01", source)
    more = ("--probabilities=npy", "--table", "--instances")
    where = {"model": road / "model", "input": source}
    assert run("predict", *more, **where, output=tmp_path / "out") == 0
    onnx = {**where, "output": tmp_path / "onnx", "runtime": "onnx"}
    assert run("predict", "--probabilities=npy", **onnx) == 0
    images = [tifffile.imread(path) for path in sorted(source.glob("*.tif"))]
    model = tf.saved_model.load(str(road / "model/1"))
    assert "image_bytes" not in model.signatures  # of one file with three images
    for place in range(8):
        given = tf.constant(stacked(images, place)[None], tf.float32)
        expected = model.signatures["serving_default"](image=given)["probabilities"][0]
        for folder, apart in (("out", LAST_BITS), ("onnx", 1e-5)):
            path = tmp_path / folder / f"t{place:03d}_probabilities.npy"
            np.testing.assert_allclose(np.load(path), expected, atol=apart)
    # A neighbour that changes makes the outputs old.
    before = np.load(tmp_path / "out/t002_probabilities.npy")
    tifffile.imwrite(source / "t003.tif", images[3][::-1])
    assert run("predict", *more, **where, output=tmp_path / "out") == 0
    assert (np.load(tmp_path / "out/t002_probabilities.npy") != before).any()


@pytest.mark.slow
def test_an_image_alone_is_refused_and_the_others_are_segmented(
    road, cells, tmp_path, capsys
):
    source = tmp_path / "in"
    shutil.copytree(cells / "01", source / "01")
    (source / "alone").mkdir()
    shutil.copy(cells / "01/t003.tif", source / "alone/x.tif")
    where = {"model": road / "model", "output": tmp_path / "out"}
    assert run("predict", input=source, **where) == 2
    assert "alone/x.tif: is alone, and this model also" in capsys.readouterr().err
    assert len(list((tmp_path / "out/01").glob("*_mask.png"))) == 8
    assert not (tmp_path / "out/alone/x_mask.png").exists()


@pytest.mark.slow
def test_neighbours_are_those_of_the_folder_whichever_images_are_asked_for(
    road, cells, tmp_path
):
    more = ("--probabilities=npy", f"--model={road / 'model'}")
    assert run("predict", *more, input=cells / "01", output=tmp_path / "whole") == 0
    some = cells / "01/t00[04].tif"
    assert run("predict", *more, input=some, output=tmp_path / "some") == 0
    one = cells / "01/t003.tif"
    assert run("predict", *more, input=one, output=tmp_path / "one") == 0
    for folder, name in (("some", "t000"), ("some", "t004"), ("one", "t003")):
        pair = (tmp_path / f / f"{name}_probabilities.npy" for f in (folder, "whole"))
        np.testing.assert_allclose(*map(np.load, pair), rtol=0, atol=LAST_BITS)


@pytest.mark.slow
def test_blocks_are_segmented_with_what_is_beside_them(road, cells, tmp_path):
    flags = f"--model={road / 'model'}", "--probabilities=tiff"
    assert run("predict", *flags, input=cells / "01", output=tmp_path / "whole") == 0
    how = "--format=ome-tiff", "--block_px=64"
    given = {"input": cells / "01", "output": tmp_path / "blocks"}
    assert run("predict", *flags, *how, **given) == 0
    for place in range(8):
        found, expected = (
            tifffile.imread(tmp_path / to / f"t{place:03d}_probabilities.tif")
            for to in ("blocks", "whole")
        )
        np.testing.assert_allclose(found.astype(int), expected.astype(int), atol=1)


@pytest.mark.slow
def test_outputs_whose_neighbours_changed_are_made_again_and_no_others(
    road, cells, tmp_path
):
    source, output = tmp_path / "in", tmp_path / "out"
    shutil.copytree(cells / "01", source)

    def again() -> set[str]:
        """Images whose outputs a run makes."""
        before = {p.name: p.stat().st_mtime_ns for p in output.glob("*_mask.png")}
        where = {"model": road / "model", "input": source, "output": output}
        assert run("predict", **where) == 0
        now = {p.name: p.stat().st_mtime_ns for p in output.glob("*_mask.png")}
        return {name[:4] for name in now if now[name] != before.get(name)}

    assert len(again()) == 8 and not again()
    (source / "t002.tif").unlink()  # others are beside t001 and t003 now
    assert again() == {"t001", "t003"}
    older = source / "t005.tif"
    tifffile.imwrite(older, tifffile.imread(older)[::-1])
    os.utime(older, (1e9, 1e9))
    assert again() == {"t004", "t005", "t006"}
    shutil.copy(source / "t007.tif", source / "t008.tif")
    assert again() == {"t007", "t008"}


@pytest.mark.slow
def test_pages_of_a_stack_have_those_beside_them(road, cells, tmp_path):
    images = [tifffile.imread(path) for path in sorted((cells / "01").glob("*.tif"))]
    tifffile.imwrite(tmp_path / "stack.tif", np.stack(images), photometric="minisblack")
    where = {"model": road / "model", "output": tmp_path / "out"}
    given = {"probabilities": "npy", "input": tmp_path / "stack.tif"}
    assert run("predict", **given, **where) == 0
    given["input"] = cells / "01"
    assert run("predict", **given, **{**where, "output": tmp_path / "video"}) == 0
    for place in range(8):
        pages = (
            tmp_path / f"out/stack-z{place:03d}_probabilities.npy",
            tmp_path / f"video/t{place:03d}_probabilities.npy",
        )
        np.testing.assert_allclose(*map(np.load, pages), rtol=0, atol=LAST_BITS)


@pytest.mark.slow
def test_model_and_report_say_so(road):
    extra = road / "model/1/assets.extra"
    about = json.loads((extra / "model.json").read_text())
    assert about["neighbours"] == [-1, 1] and about["channels"] == 3
    assert run("preview", data=road / "data", output=road / "seen") == 0
    assert "those of its neighbours -1, 1" in (extra / "model_card.md").read_text()
    assert (road / "run/report.html").exists()
