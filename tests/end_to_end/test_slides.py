"""Slides from end to end: regions that are trained on, and the whole by blocks."""

import json

import numpy as np
import pytest
import tifffile

from tests.commands import SMALL, run
from trainer.evaluation.evaluate_run import origin_of
from trainer.run import workdir
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.images.layouts import find_frames

SET = "--config=configs/folder.py:smoke", *SMALL, "--config.data.labels=binary"
LEARN = ("--config.train.steps=4", "--config.train.validate_every_steps=2")


@pytest.mark.slow
def test_regions_of_a_slide_are_learned_and_the_whole_is_segmented(
    cells, tmp_path, capsys
):
    """From a slide with six labelled places; what was trained on is not scored."""
    frames = [tifffile.imread(path) for path in sorted((cells / "01").glob("*.tif"))]
    rows = [np.concatenate(frames[n : n + 4], axis=1) for n in (0, 4)]
    image = np.concatenate(rows)
    truth = sorted((cells / "01_GT/SEG").glob("*.tif"))
    masks = [(tifffile.imread(path) > 0).astype(np.uint8) for path in truth]
    mask = np.full(image.shape, 255, np.uint8)
    for place, known in enumerate(masks[:6]):
        top, left = place // 4 * 128, place % 4 * 128
        mask[top : top + 60, left : left + 64] = known[:60, :64]
    source = tmp_path / "in"
    for kind, array in (("images", image), ("masks", mask)):
        (source / kind).mkdir(parents=True)
        tifffile.imwrite(source / kind / "slide.tif", array, tile=(64, 64))
    regions = "--config.data.regions=labelled"
    named = "--config.data.mask_values=255=unlabelled"
    data, work = tmp_path / "data", tmp_path / "run"
    assert run("preprocess", *SET, regions, named, input=source, output=data) == 0
    assert run("train", *SET, *LEARN, regions, named, data=data, workdir=work) == 0
    capsys.readouterr()
    assert run("evaluate", workdir=work, input=source) == 0
    assert "frames" in capsys.readouterr().out
    config, info = workdir.read_config(str(work)), workdir.read_info(str(work))
    known = info.read_sources(str(data))
    learned = {each.frame for each in known if each.split == "train"}
    frames = [f for f in find_frames(config.data, str(source)) if f.key in learned]
    assert len(frames) == 3
    where = str(data), info, config.data
    with pytest.raises(UserError, match="was trained on"):
        origin_of(frames[:1], *where)
    others = [f for f in find_frames(config.data, str(source)) if f not in frames]
    assert "not of the data set" not in origin_of(others, *where)
    assert run("export", workdir=work, output=tmp_path / "model") == 0
    where = {"model": tmp_path / "model", "input": source, "output": tmp_path / "out"}
    how = "--format=ome-zarr", "--instances", "--block_px=128"
    assert run("predict", *how, **where) == 0
    about = json.loads((tmp_path / "out/images/slide_mask.zarr/.zattrs").read_text())
    assert about["multiscales"][0]["axes"][0]["name"] == "y"
