"""Masks as people have them, through the preprocess command: read right or refused."""

import json

import cv2
import numpy as np
import pytest

from tests.commands import run
from tests.folders import FOLDER, lay
from unet_tfrecords.dataset import shards
from unet_tfrecords.dataset.dataset_info import read_info
from unet_tfrecords.dataset.drawn_cells import draw_cells

SMALL = (*FOLDER, "--config.data.augmentations=1")
DRAWN = list(draw_cells(192, 6, 5))


@pytest.fixture
def made(tmp_path, capfd):
    """Runs preprocess on drawn cells, masks made by a function; its code and words."""

    def make(mask_of, *flags, ending="png"):
        images = {f"f{n}": (image, None) for n, (image, _) in enumerate(DRAWN)}
        masks = {f"f{n}": (None, mask_of(cells)) for n, (_, cells) in enumerate(DRAWN)}
        lay(lay(tmp_path / "in", images, "png"), masks, ending)
        where = {"input": tmp_path / "in", "output": tmp_path / "data"}
        code = run("preprocess", *SMALL, *flags, **where)
        said = capfd.readouterr()
        return code, said.out, [x for x in said.err.splitlines() if "preprocess: " in x]

    return make


def binary(instances):
    return (instances > 0) * np.uint8(255)


def ids(instances):
    """Numbers that differ from frame to frame."""
    shift = int(instances.sum()) % 7
    return np.where(instances > 0, instances * 3 + shift, 0).astype(np.uint8)


def blurred(instances):
    return cv2.GaussianBlur(binary(instances), (0, 0), 0.5)


def watershed(instances):
    """Background 1, lines 0 between the regions, cells from 2 on."""
    numbers = (instances + 1).astype(np.uint8)
    edges = cv2.dilate(numbers, np.ones((3, 3))) != cv2.erode(numbers, np.ones((3, 3)))
    return np.where(edges, 0, numbers).astype(np.uint8)


def resized(instances):
    small = cv2.resize(ids(instances), None, fx=0.7, fy=0.7)
    return cv2.resize(small, instances.shape[::-1])


def tiles_of(folder):
    """Every tile of a data set, by its key."""
    info = read_info(str(folder))
    return {
        tile.key: tile
        for split in info.splits.values()
        for shard in split.shards
        for tile in shards.read_tiles(str(folder / shard.name), info.geometry)
    }


def foreground(tmp_path) -> list[int]:
    info = json.loads((tmp_path / "data/dataset_info.json").read_text())
    return [sum(s["class_pixels"][1] for s in info["splits"].values()), info]


@pytest.mark.slow
def test_two_values_are_foreground_and_background(made, tmp_path):
    code, out, _ = made(binary)
    assert code == 0
    assert "labels  binary: two values, foreground and background" in out
    _, info = foreground(tmp_path)
    assert info["config"]["data"]["labels"] == "binary"
    assert info["labels_reason"].startswith("two values")
    assert info["notes"] == []


@pytest.mark.slow
def test_numbers_in_one_piece_each_are_cells(made, tmp_path):
    code, out, _ = made(ids)
    assert (
        code == 0 and "labels  instance: " in out and "in one piece, a cell each" in out
    )
    assert foreground(tmp_path)[1]["config"]["data"]["labels"] == "instance"


@pytest.mark.slow
def test_thin_grey_rims_are_split_halfway_and_reported(made, tmp_path):
    """The foreground is that of the mask before it was blurred, but for its rim."""
    code, out, _ = made(blurred)
    assert code == 0
    assert (
        "grey rims of binary masks" in out and ": 6 frames, images/f0.png first" in out
    )
    [note] = foreground(tmp_path)[1]["notes"]
    assert note["files"] == 6
    pixels, info = foreground(tmp_path)
    exact = sum(int((instances > 0).sum()) for _, instances in DRAWN)
    seen = sum(
        sum(s["class_pixels"]) for s in info["splits"].values()
    )  # tiles overlap at their borders
    assert pixels / seen == pytest.approx(exact / (6 * 192**2), rel=0.05)


@pytest.mark.parametrize(
    "mask_of, flags, said",
    [
        (
            lambda m: cv2.GaussianBlur(binary(m), (0, 0), 3),
            ["--config.data.labels=binary"],
            "values from 0 to 255, where labels=binary means two",
        ),
        (ids, ["--config.data.labels=binary"], "where labels=binary means two"),
        (
            resized,
            ["--config.data.labels=instance"],
            "are rims around others",
        ),
        (binary, ["--config.data.labels=instance"], "one object in up to"),
        (binary, ["--config.data.labels=class"], "255 means unlabelled: use"),
        (
            lambda m: np.clip(m, 0, 2).astype(np.uint8) * (m < 3),
            [],
            "--config.data.labels=class or instance",
        ),
        (watershed, [], "give --config.data.mask_values=1=0"),
        (
            lambda m: binary(m) // 255 + np.uint8(1),
            [],
            "give --config.data.mask_values=1=0",
        ),
    ],
    ids="blurred ids-as-binary resized 255-as-ids 255-as-class two-ways watershed "
    "no-zero".split(),
)
def test_masks_that_contradict_how_they_are_read(made, tmp_path, mask_of, flags, said):
    code, _, lines = made(mask_of, *flags)
    assert code == 2 and all(said in line for line in lines), lines
    assert not (tmp_path / "data/dataset_info.json").exists()


def test_masks_of_0_and_1_among_those_of_0_and_255_are_named(made, tmp_path):
    """As classes, those of 255 would hold nothing but unlabelled pixels."""
    turns = iter([1, 255] * 3)
    code, _, [line] = made(lambda m: (m > 0) * np.uint8(next(turns)))
    assert code == 2 and "0, 1 and 255" in line
    assert "--config.data.labels=binary or class" in line


@pytest.mark.slow
def test_a_background_with_a_number_is_mapped(made, tmp_path):
    code, out, _ = made(watershed, "--config.data.mask_values=1=0")
    assert code == 0 and "labels  instance: " in out
    pixels, info = foreground(tmp_path)
    seen = sum(sum(s["class_pixels"]) for s in info["splits"].values())
    inside = sum(int((watershed(m) > 1).sum()) for _, m in DRAWN)
    assert pixels / seen == pytest.approx(inside / (6 * 192**2), rel=0.05)
    shard = info["splits"]["train"]["shards"][0]["name"]
    assert (tmp_path / "data" / shard).exists()


def coloured(instances, colours):
    """RGB of instances: the first colour is the background's, the others take turns."""
    cells = np.where(instances, (instances - 1) % (len(colours) - 1) + 1, 0)
    return np.array(colours, np.uint8)[cells]


BLACK, RED, BLUE, WHITE = (0, 0, 0), (255, 0, 0), (0, 0, 255), (255, 255, 255)
GREY = (128, 128, 128)
KINDS = "--config.data.mask_values='#000000=0,#ff0000=1,#0000ff=2'".replace("'", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "mask_of, flags, class_of",
    [
        (
            lambda m: coloured(m, [BLACK, RED, BLUE]),
            ["--config.data.labels=binary"],
            lambda m: m > 0,
        ),
        (
            lambda m: coloured(m, [BLACK, RED, BLUE]),
            ["--config.data.labels=class", "--config.model.classes=3", KINDS],
            lambda m: np.where(m, (m - 1) % 2 + 1, 0),
        ),
        (
            lambda m: coloured(m, [WHITE, BLUE, GREY]),
            [
                "--config.data.mask_values=#ffffff=0,#0000ff=1,#808080=unlabelled",
                "--config.data.labels=class",
            ],
            lambda m: np.where(m, (m - 1) % 2 * 254 + 1, 0),
        ),
        (
            lambda m: np.where(m, (m - 1) % 2 * 77 + 50, 7).astype(np.uint8),
            ["--config.data.mask_values=7=0,50=1,127=unlabelled"],
            lambda m: np.where(m, (m - 1) % 2 * 254 + 1, 0),
        ),
    ],
    ids="any-colour colours-as-classes a-white-background values".split(),
)
def test_values_and_colours_mean_what_the_config_says(
    made, tmp_path, mask_of, flags, class_of
):
    """The shards are those of the same masks saved as class numbers."""
    assert made(mask_of, *flags)[0] == 0
    assert run("verify", data=tmp_path / "data") == 0
    found = tiles_of(tmp_path / "data")
    more = [flag for flag in flags if "classes" in flag]
    plain = "--overwrite", "--config.data.labels=class", *more
    assert made(lambda m: class_of(m).astype(np.uint8), *plain)[0] == 0
    expected = tiles_of(tmp_path / "data")
    assert found.keys() == expected.keys()
    for key, tile in found.items():
        np.testing.assert_array_equal(tile.label, expected[key].label)


@pytest.mark.slow
def test_each_colour_is_an_object(made, tmp_path):
    """As with a number each; greys that occur count as colours."""
    generator = np.random.default_rng(1)
    colours = [BLACK, *generator.integers(1, 256, (40, 3)).tolist()]
    flag = "--config.data.labels=instance"
    assert made(lambda m: coloured(m, colours), flag)[0] == 0
    found = tiles_of(tmp_path / "data")
    assert made(lambda m: m.astype(np.uint8), flag, "--overwrite")[0] == 0
    for key, tile in tiles_of(tmp_path / "data").items():
        np.testing.assert_array_equal(tile.label, found[key].label)
        np.testing.assert_array_equal(tile.weight, found[key].weight)


@pytest.mark.parametrize(
    "colours, flags, said",
    [
        ([BLACK, RED, BLUE], [], "the masks hold colours; say what they are"),
        ([BLACK, RED, BLUE], ["--config.data.labels=class"], "say what they are"),
        (
            [WHITE, RED, BLUE],
            ["--config.data.labels=binary"],
            "colour #ffffff covers",
        ),
        (
            [BLACK, RED, BLUE],
            ["--config.data.labels=class", "--config.data.mask_values=#000000=0"],
            "has no number for #0000ff, #ff0000",
        ),
    ],
    ids="auto class no-black unnamed".split(),
)
def test_colours_without_a_meaning_are_refused(made, colours, flags, said):
    code, _, lines = made(lambda m: coloured(m, colours), *flags)
    assert code == 2 and all(said in line for line in lines), lines


def test_mistakes_in_mask_values_are_all_named(made):
    wrong = "1=0,1=2,#ff0000=1,red=2,9=255"
    code, _, lines = made(binary, f"--config.data.mask_values={wrong}")
    parts = "names 1 twice", "'red=2' is not", "9=unlabelled", "both values and colours"
    assert code == 2 and len(lines) == len(parts)
    assert all(any(part in line for line in lines) for part in parts)


@pytest.mark.slow
def test_frames_are_sorted_by_their_numbers(tmp_path, capfd):
    frames = {}
    for number in range(1, 13):
        image, instances = DRAWN[number % 6]
        frames[f"img ({number})"] = image + np.uint8(number), binary(instances)
    where = {"input": lay(tmp_path / "in", frames, "png"), "output": tmp_path / "data"}
    assert run("preprocess", *SMALL, **where) == 0
    splits = {}
    for source in read_info(f"{tmp_path}/data").sources:
        number = int(source.frame.rpartition("(")[2].rstrip(")"))
        splits.setdefault(source.split, []).append(number)
    ordered = [sorted(splits[name]) for name in ("train", "validation", "test")]
    assert sum(ordered, []) == list(range(1, 13))


def test_images_that_are_not_read_are_named(made, tmp_path, capfd):
    """Each format in a line; files that are no images are counted."""
    for kind in ("images", "masks"):
        (tmp_path / "in" / kind).mkdir(parents=True)
        (tmp_path / "in" / kind / "f09.czi").touch()
    (tmp_path / "in/images/notes.txt").touch()
    code, out, lines = made(binary)
    assert code == 2 and len(lines) == 2
    assert all("f09.czi: CZI is not read; convert it to TIFF" in x for x in lines)
    assert "files that are no images: 1" in out


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["bmp", "gif", "tif"])
def test_masks_of_every_format_are_read(made, ending):
    assert made(binary, ending=ending)[0] == 0


def test_the_challenges_names_are_found_in_any_case(cells, tmp_path):
    import shutil

    from configs import synthetic
    from unet_tfrecords.dataset.images.layouts import find_frames

    data = synthetic.get_config("smoke").data
    before = find_frames(data, str(cells))
    shutil.copytree(cells, tmp_path / "c")
    for path in sorted((tmp_path / "c").rglob("man_seg*"))[::2]:
        path.rename(path.with_suffix(".TIF"))
    (tmp_path / "c/01_GT/SEG").rename(tmp_path / "c/01_GT/Seg")
    (tmp_path / "c/01_GT").rename(tmp_path / "c/01_gt")
    after = find_frames(data, str(tmp_path / "c"))
    assert [f.name for f in after] == [f.name for f in before]


@pytest.mark.slow
def test_verify_finds_a_numbered_background_and_tells_notes(made, tmp_path, capfd):
    """As in data sets of before masks were surveyed."""
    assert made(blurred)[0] == 0
    assert run("verify", data=tmp_path / "data") == 0
    assert "grey rims of binary masks" in capfd.readouterr().out
    flags = "--config.data.mask_values=1=1", "--config.data.labels=instance"
    assert made(watershed, *flags, "--overwrite")[0] == 0
    path = tmp_path / "data/dataset_info.json"
    info = json.loads(path.read_text())
    info["config"]["data"]["mask_values"] = ""
    del info["own_digest"]
    path.write_text(json.dumps(info))
    capfd.readouterr()
    assert run("verify", data=tmp_path / "data") == 2
    assert "of all labelled pixels are foreground" in capfd.readouterr().err
