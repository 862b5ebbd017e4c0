"""Masks as people have them, through the preprocess command: read right or refused."""

import json
import shutil

import cv2
import numpy as np
import pytest

from configs import synthetic
from tests.commands import run
from tests.folders import FOLDER, lay
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset import shards
from unet_tfrecords.dataset.dataset_info import read_info
from unet_tfrecords.dataset.drawn_cells import draw_cells
from unet_tfrecords.dataset.images import mask_survey
from unet_tfrecords.dataset.images.layouts import find_frames, look_for_frames
from unet_tfrecords.dataset.images.mask_values import (
    check_classes,
    check_colours,
    check_instances,
    check_object,
    foreground_of,
)
from unet_tfrecords.dataset.images.value_map import parse

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


def organs(instances):
    """Classes of which each frame has all, each in one piece."""
    return np.where(instances <= 6, instances, 0).astype(np.uint8)


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
        (organs, [], "class: 7 numbers in all, a class each; or instance: 36 of 36"),
        (
            lambda m: binary(m) // 255 + np.uint8(1),
            [],
            "give --config.data.mask_values=1=0",
        ),
    ],
    ids="blurred ids-as-binary resized 255-as-ids 255-as-class two-ways watershed "
    "organs no-zero".split(),
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
    given = "--config.data.mask_values=1=0", "--config.data.labels=instance"
    code, out, _ = made(watershed, *given)
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
    data = synthetic.get_config("smoke").data
    before = find_frames(data, str(cells))
    shutil.copytree(cells, tmp_path / "c")
    for path in sorted((tmp_path / "c").rglob("man_seg*"))[::2]:
        path.rename(path.with_suffix(".TIF"))
    (tmp_path / "c/01_GT/SEG").rename(tmp_path / "c/01_GT/Seg")
    (tmp_path / "c/01_GT").rename(tmp_path / "c/01_gt")
    after = find_frames(data, str(tmp_path / "c"))
    assert [f.name for f in after] == [f.name for f in before]


def test_other_files_in_the_challenges_folders_are_named(cells, tmp_path):
    shutil.copytree(cells, tmp_path / "c")
    for name in ("01/t090.png", "01_GT/SEG/man_seg090.png", "01/t091.czi"):
        (tmp_path / "c" / name).touch()
    data = synthetic.get_config("smoke").data
    found = look_for_frames(data, str(tmp_path / "c"))
    assert [line.rpartition("c/")[2] for line in found.problems] == [
        "01/t091.czi: CZI is not read; convert it to TIFF"
    ]
    assert [path.rpartition("c/")[2] for path in found.left_out] == [
        "01/t090.png",
        "01_GT/SEG/man_seg090.png",
    ]


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


# --- Labels that look like rims, and other readings that must not be taken ------------


def discs(size=96, number=8):
    """Instances far apart, 1 to `number`."""
    rows, columns = np.mgrid[:size, :size]
    found = np.zeros((size, size), np.int32)
    for index in range(number):
        y, x = 14 + 24 * (index // 4), 12 + 24 * (index % 4)
        found[np.hypot(rows - y, columns - x) < 8] = index + 1
    return found


def ring(mask, value):
    """The mask with a ring of one pixel around it."""
    wider = cv2.dilate((mask > 0).astype(np.uint8), np.ones((3, 3), np.uint8))
    return np.where(mask > 0, mask, wider * value)


ONE = (discs() > 0).astype(np.int32)
LABELS = {
    "one class and unlabelled rings": ring(ONE, 255),
    "two classes and unlabelled rings": ring(np.minimum(discs(), 2), 255),
    "cells and a large number": np.where(discs() == 8, 1000, discs()),
    "cells and 255": np.where(discs() == 8, 255, discs()),
    "two tracks far apart": np.where(discs() > 4, 41, 3 * ONE),
    "a class of boundaries": ring(2 * ONE, 1),
    "background, unsure, foreground": np.pad(ring(255 * ONE, 128), 100),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_are_not_taken_for_grey_rims(name):
    with pytest.raises(UserError, match="where labels=binary means two"):
        foreground_of(LABELS[name], "a.png", [])


@pytest.mark.parametrize("quality", [95, 85, 75])
def test_what_jpeg_leaves_is_halved(quality):
    _, encoded = cv2.imencode(".jpg", ONE * 255, [cv2.IMWRITE_JPEG_QUALITY, quality])
    read = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    notes = []
    assert (foreground_of(read, "a.png", notes) == (ONE > 0)).mean() > 0.99
    assert len(notes) == 1


def grid():
    """Lines of 0 around cells 2 to 17, and background 1 on 23 % of the mask."""
    labels = np.ones((64, 64), np.int32)
    for number in range(16):
        row, column = divmod(number, 4)
        own = labels[16 * row :, 16 * column :]
        own[1:15, 1:15] = 0
        own[2:14, 2:14] = number + 2
    return labels


def looked_at(*masks):
    return [
        mask_survey.look_at(mask)._replace(name=f"{i}") for i, mask in enumerate(masks)
    ]


@pytest.mark.parametrize(
    "masks, said",
    [
        ([np.uint8(1) + ONE, np.uint8(1) + ONE], "mask_values=1=0,2=1"),
        ([ONE * 255, ONE * 255, 255 - ONE * 255], "exchange its two values"),
        ([grid()] * 2, "1 covers 23% of most masks and touches most others"),
    ],
    ids=["no-zero", "one-reversed", "background-of-a-third"],
)
def test_a_background_that_is_no_0_is_refused(masks, said):
    facts = looked_at(*masks)
    with pytest.raises(UserError, match=said):
        mask_survey.check_background(facts, "class")
        mask_survey.check_background(facts, "instance")
        mask_survey.check_reversed(facts)


def test_what_the_config_says_of_classes_is_compared_with_the_masks():
    facts = looked_at(np.minimum(discs(), 2), np.minimum(discs(), 2))
    mask_survey.check_number_of_classes(facts, "class", 3)
    for labels, classes, said in (
        ("class", 2, "use --config.model.classes=3"),
        ("binary", 3, "labels=binary gives 2"),
        ("instance", 7, "labels=instance gives 2"),
    ):
        with pytest.raises(UserError, match=said):
            mask_survey.check_number_of_classes(facts, labels, classes)
    with pytest.raises(UserError, match="are in pieces, one in 7; .* read as class"):
        mask_survey.reading_of(facts, "instance")


def test_a_large_cell_among_others_is_no_background():
    """Cells without gaps: one touches most others, but not all edges of the frame."""
    labels = np.kron(np.arange(2, 11).reshape(3, 3), np.ones((9, 9), int))
    labels[6:21, 6:21] = 1
    mask_survey.check_background(looked_at(*[labels.astype(np.int32)] * 2), "instance")


def test_many_numbers_in_pieces_are_doubted():
    """Ids that wrap, or colours that recur: which is right nobody can tell."""
    masks = [np.tile(np.arange(1, 9, dtype=np.int32), 4)[np.newaxis].repeat(4, 0)] * 2
    reading = mask_survey.reading_of(looked_at(*masks), "instance")
    assert "though 16 of 16 numbers are in several pieces" in reading.reason


@pytest.mark.parametrize(
    "colours, said",
    [
        ([{1: 0xFF0000}, {1: 0x00FF00}], "number 1 of its palette is #00ff00, but num"),
        ([{1: 0xFF0000}, {2: 0xFF0000}], "but #ff0000 is number 1 in 0"),
    ],
)
def test_palettes_of_two_meanings_are_refused(colours, said):
    plain = looked_at(ONE, ONE)
    facts = [f._replace(colours=c) for f, c in zip(plain, colours, strict=True)]
    mask_survey.check_palettes(facts[:1] * 2)
    same = [plain[0]._replace(colours={1: 0xFF0000, 2: 0xFF0000})]
    mask_survey.check_palettes(same * 2)  # two numbers of a colour, in each file
    with pytest.raises(UserError, match=said):
        mask_survey.check_palettes(facts)


def test_colours_that_are_nearly_black_are_refused():
    check_colours(np.array([[0, 0x100000, 0x0000FF]]), "binary", "a.png")
    with pytest.raises(UserError, match="#010f02, which is nearly black"):
        check_colours(np.array([[0, 0x010F02]]), "instance", "a.png")


def test_255_alone_in_pieces_is_a_foreground():
    two = np.array([[7, 0, 7]], np.int32)
    check_instances(two, "a.png")
    with pytest.raises(UserError, match="255 is the only number, in 2 pieces"):
        check_instances(two // 7 * 255, "a.png")


def test_values_that_no_mask_has_are_named():
    facts = [f._replace(stored=f.values) for f in looked_at(ONE * 255)]
    mask_survey.check_named(facts, parse("255=1"))
    with pytest.raises(UserError, match="names 2, which no mask has; .* 0 and 255"):
        mask_survey.check_named(facts, parse("255=1,2=0"))


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda mask: np.ones_like(mask), "covers all corners"),
        (lambda mask: np.indices(mask.shape)[1] % 4 < 2, "24 pieces, where each"),
    ],
)
def test_masks_of_single_objects_that_are_none(change, said):
    with pytest.raises(UserError, match=said):
        check_object(change(ONE > 0), "a.png")


def test_classes_that_are_thin_everywhere_are_refused():
    check_classes(ring(2 * ONE, 1), "a.png")
    blurred = cv2.GaussianBlur((ONE * 200).astype(np.uint8), (0, 0), 1)
    with pytest.raises(UserError, match="are thin lines everywhere"):
        check_classes(blurred.astype(np.int32), "a.png")
