"""Every kind of file through preprocess and predict: right, or refused by name."""

import csv
import hashlib

import numpy as np
import pytest
from PIL import Image

from tests.commands import lines_of, run
from tests.dataset import kinds
from tests.folders import FOLDER
from unet_tfrecords.dataset.drawn_cells import draw_cells

SETTINGS = (*FOLDER, "--config.data.augmentations=1")
DRAWN = [(i[:44], m[:44]) for i, m in draw_cells(56, 40, 5)]  # lying rectangles


def named(found, place, number):
    """The path of frame `number`, whose name says its kind."""
    (place).mkdir(parents=True, exist_ok=True)
    words = "".join(c if c.isalnum() else "-" for c in found.name)
    return place / f"f{number:02d}-{words}"


def write_kinds(folder, found, pixels_of, place):
    """Each kind's file in one folder, and what it shows as plain PNG in another."""
    for number, kind in enumerate(found):
        pixels = pixels_of(*DRAWN[number])
        path = named(kind, folder / "theirs" / place, number)
        shown = kind.write(path.with_name(f"{path.name}.{kind.ending}"), pixels)
        if shown is None:
            shown = pixels
        stem = named(kind, folder / "plain" / place, number).name
        stem += kind.ending.rpartition(".")[0] and "." + kind.ending.rpartition(".")[0]
        kinds.cv2.imwrite(
            str(folder / f"plain/{place}/{stem}.png"),
            shown[..., ::-1] if shown.ndim == 3 else shown,
        )
        yield stem


def write_others(folder, stems, pixels_of, place):
    """The other half of each pair, as PNG, for both folders."""
    for number, stem in enumerate(stems):
        for side in ("theirs", "plain"):
            path = folder / side / place / f"{stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels_of(*DRAWN[number])).save(path)


def made(folder, *flags) -> int:
    given = {"input": folder, "output": f"{folder}-data"}
    return run("preprocess", *SETTINGS, *flags, **given)


def digests(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("*.tfrecord"))
    }


def grey(image, instances):
    return image


def rgb(image, instances):
    return np.dstack([image, 255 - image, image // 2])


def binary(image, instances):
    return (instances > 0) * np.uint8(255)


def numbers(image, instances):
    return instances.astype(np.uint8)


CASES = {
    "grey": (kinds.GREY, grey, "images", binary, "masks", ["labels=auto"]),
    "rgb": (kinds.RGB, rgb, "images", binary, "masks", ["labels=auto"]),
    "binary": (kinds.BINARY, binary, "masks", grey, "images", ["labels=binary"]),
    "instances": (
        kinds.INSTANCES,
        numbers,
        "masks",
        grey,
        "images",
        ["labels=instance"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_preprocess_makes_what_it_makes_of_plain_png(tmp_path, case):
    """The shards are the same, byte for byte."""
    found, pixels_of, place, others_of, other, settings = CASES[case]
    stems = list(write_kinds(tmp_path, found, pixels_of, place))
    write_others(tmp_path, stems, others_of, other)
    flags = [f"--config.data.{setting}" for setting in settings]
    flags.append("--config.data.name=same")
    flags += ["--config.model.channels=3"] * (case == "rgb")
    for side in ("theirs", "plain"):
        assert made(tmp_path / side, *flags) == 0
    theirs = digests(tmp_path / "theirs-data")
    assert theirs == digests(tmp_path / "plain-data") and len(theirs) > 2
    assert run("verify", data=f"{tmp_path}/theirs-data") == 0


@pytest.mark.slow
def test_predict_makes_what_it_makes_of_plain_png(models, tmp_path):
    stems = list(write_kinds(tmp_path, kinds.GREY, grey, "images"))
    for side in ("theirs", "plain"):
        where = {
            "input": f"{tmp_path}/{side}/images",
            "output": f"{tmp_path}/{side}-out",
        }
        more = "--table", "--instances", "--min_size_px=0"
        assert run("predict", *more, model=models, **where) == 0
    for stem in stems:
        for end in ("mask.png", "overlay.png", "instances.tif"):
            ours, plain = (
                (tmp_path / f"{side}-out/{stem}_{end}").read_bytes()
                for side in ("theirs", "plain")
            )
            assert ours == plain, (stem, end)
    rows = [
        [
            row[1:11]
            for row in csv.reader(
                (tmp_path / f"{side}-out/objects.csv").read_text().splitlines()
            )
        ]
        for side in ("theirs", "plain")
    ]
    assert rows[0] == rows[1] and len(rows[0]) > len(stems)


def test_preprocess_names_each_image_that_it_refuses(tmp_path, capfd):
    for number, kind in enumerate(kinds.REFUSED):
        image, instances = DRAWN[number]
        path = named(kind, tmp_path / "in/images", number)
        kind.write(path.with_name(f"{path.name}.{kind.ending}"), image)
        mask = named(kind, tmp_path / "in/masks", number)
        Image.fromarray(binary(image, instances)).save(f"{mask}.png")
    for number in range(5):  # good ones
        for place, pixels_of in (("images", grey), ("masks", binary)):
            Image.fromarray(pixels_of(*DRAWN[number])).save(
                tmp_path / f"in/{place}/good{number}.png"
            )
    assert made(tmp_path / "in") == 2
    lines = lines_of(capfd, "preprocess")
    for number, kind in enumerate(kinds.REFUSED):
        path = named(kind, tmp_path / "in/images", number)
        own = [line for line in lines if f"{path}.{kind.ending}" in line]
        assert own and any(kind.becomes in line for line in own), (kind.name, own)
    assert not any("good" in line for line in lines)
    assert not list((tmp_path / "in-data").glob("*.tfrecord"))


@pytest.mark.slow
def test_predict_names_each_image_that_it_refuses(models, tmp_path, capfd):
    """All but those of one value, which can be segmented."""
    refused = [kind for kind in kinds.REFUSED if "every pixel" not in kind.becomes]
    for number, kind in enumerate(refused):
        path = named(kind, tmp_path / "in", number)
        kind.write(path.with_name(f"{path.name}.{kind.ending}"), DRAWN[number][0])
    Image.fromarray(DRAWN[0][0]).save(tmp_path / "in/good.png")
    where = {"input": f"{tmp_path}/in", "output": f"{tmp_path}/out"}
    assert run("predict", model=models, **where) == 2
    lines = lines_of(capfd, "predict")
    for number, kind in enumerate(refused):
        path = named(kind, tmp_path / "in", number)
        [line] = [line for line in lines if f"{path}.{kind.ending}" in line]
        assert kind.becomes in line
    masks = [path.name for path in (tmp_path / "out").glob("*_mask.png")]
    assert masks == ["good_mask.png"]


def test_preprocess_names_each_mask_that_it_refuses(tmp_path, capfd):
    for number, kind in enumerate(kinds.REFUSED_MASKS):
        image, instances = DRAWN[number]
        mask = named(kind, tmp_path / "in/masks", number)
        kind.write(
            mask.with_name(f"{mask.name}.{kind.ending}"), numbers(image, instances)
        )
        path = named(kind, tmp_path / "in/images", number)
        Image.fromarray(image).save(f"{path}.png")
    assert made(tmp_path / "in", "--config.data.labels=instance") == 2
    lines = lines_of(capfd, "preprocess")
    for number, kind in enumerate(kinds.REFUSED_MASKS):
        path = named(kind, tmp_path / "in/masks", number)
        own = [line for line in lines if f"{path}.{kind.ending}" in line]
        assert own and kind.becomes in own[0], (kind.name, lines)


@pytest.mark.slow
def test_what_an_owner_should_look_at_is_noted(tmp_path, capfd):
    """Outliers, hot pixels and halved rims: in dataset_info.json, and by verify."""
    hot = DRAWN[0][0] / np.float32(200)
    hot[9, 9] = 1e6
    dark = DRAWN[1][0].astype(np.uint16)
    dark[9, 9] = 65535
    images = [hot, dark, *(image for image, _ in DRAWN[2:6])]
    for number, image in enumerate(images):
        mask = tmp_path / f"in/masks/f{number}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        kinds.blurred(mask, binary(*DRAWN[number]))
        (tmp_path / "in/images").mkdir(exist_ok=True)
        kinds.tiff()(tmp_path / f"in/images/f{number}.tif", image)
    assert made(tmp_path / "in") == 0
    capfd.readouterr()
    assert run("verify", data=tmp_path / "in-data") == 0
    said = capfd.readouterr().out
    for words in ("outliers of intensity", "a few pixels of 65535", "grey rims"):
        assert words in said


def test_the_page_lists_every_kind():
    assert kinds.tables() in kinds.PAGE.read_text(), "python -m tests.dataset.kinds"
