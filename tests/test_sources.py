"""Adapters on drawn and real data; every broken layout gets its line."""

import shutil
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage.measure import label

from configs import dic_hela, folder, isbi2012, phc_u373
from preprocess import sources
from preprocess.errors import UserError
from preprocess.images import Page, read_image, read_labels
from preprocess.records import UNLABELLED
from preprocess.sources import ctc


def frames_of(module, path, **changes):
    data = module.get_config().data
    data.update(changes)
    return data, sources.find_frames(data, str(path))


def truth_of(data, frame, classes=2):
    return sources.read_truth(frame, data, classes)


def problems(function, *arguments, **named) -> str:
    with pytest.raises(UserError) as caught:
        function(*arguments, **named)
    return str(caught.value)


def test_ctc_layout(cells):
    data, frames = frames_of(dic_hela, cells, labels="gold")
    assert [frame.name for frame in frames] == [f"t{i:03d}" for i in range(8)]
    image, truth = sources.check_frame(frames[2], data, channels=1, classes=2)
    assert image.shape == (128, 128, 1) and image.dtype == np.uint8
    gold = tifffile.imread(cells / "01_GT/SEG/man_seg002.tif")
    np.testing.assert_array_equal(truth.instances, gold)
    np.testing.assert_array_equal(truth.classes, gold > 0)


def test_isbi_layout(em):
    data, frames = frames_of(isbi2012, em)
    assert len(frames) == 6 and frames[4].image.number == 4
    image, truth = sources.check_frame(frames[4], data, channels=1, classes=2)
    np.testing.assert_array_equal(
        image[..., 0], tifffile.imread(em / "train-volume.tif")[4]
    )
    interior = tifffile.imread(em / "train-labels.tif")[4] > 0
    np.testing.assert_array_equal(truth.classes, interior)
    expected = label(interior, connectivity=1)
    pairs = np.unique(np.stack([truth.instances[interior], expected[interior]]), axis=1)
    assert pairs.shape[1] == expected.max() == truth.instances.max()  # one to one


def remove_gold(folder, frame: int, identity: int):
    path = folder / f"01_GT/SEG/man_seg{frame:03d}.tif"
    gold = tifffile.imread(path)
    mask = gold == identity
    assert mask.any()
    tifffile.imwrite(path, np.where(mask, 0, gold))
    return mask


def test_unlabelled_cell_and_its_surroundings_are_unlabelled(cells, tmp_path):
    shutil.copytree(cells, tmp_path / "c")
    identity = int(tifffile.imread(cells / "01_GT/SEG/man_seg003.tif").max())
    mask = remove_gold(tmp_path / "c", 3, identity)
    data, frames = frames_of(dic_hela, tmp_path / "c", labels="gold")
    truth = truth_of(data, frames[3])
    assert (truth.classes[mask] == UNLABELLED).all()
    labelled = truth.instances > 0
    assert (truth.classes[labelled] == 1).all()
    assert not (truth_of(data, frames[2]).classes == UNLABELLED).any()


def test_frame_without_any_gold_cell_is_wholly_unlabelled():
    markers = np.zeros((40, 40), np.int32)
    markers[5, 5] = 1
    empty = np.zeros_like(markers)
    assert ctc.unlabelled_surroundings(empty, markers).all()
    assert not ctc.unlabelled_surroundings(empty, empty).any()


def test_silver_fills_what_gold_lacks(cells, tmp_path):
    shutil.copytree(cells, tmp_path / "c")
    shutil.copytree(cells / "01_GT/SEG", tmp_path / "c/01_ST/SEG")
    whole = tifffile.imread(cells / "01_GT/SEG/man_seg003.tif")
    mask = remove_gold(tmp_path / "c", 3, int(whole.max()))
    (tmp_path / "c/01_GT/SEG/man_seg004.tif").unlink()
    data, frames = frames_of(dic_hela, tmp_path / "c", labels="both")
    truth = truth_of(data, frames[3])
    np.testing.assert_array_equal(truth.classes, whole > 0)
    assert len(np.unique(truth.instances[mask])) == 1
    assert frames[4].label is None and frames[4].silver is not None
    assert len(frames_of(dic_hela, tmp_path / "c", labels="gold")[1]) == 7
    assert len(frames_of(dic_hela, tmp_path / "c", labels="silver")[1]) == 8


def make_folder(path, images, masks):
    for kind, content in (("images", images), ("masks", masks)):
        (path / kind).mkdir(parents=True)
        for name, pixels in content.items():
            if name.endswith(".tif"):
                tifffile.imwrite(path / kind / name, pixels, photometric="minisblack")
            else:
                cv2.imwrite(str(path / kind / name), pixels)


RNG = np.random.default_rng(0)
GREY8 = RNG.integers(0, 255, (40, 50)).astype(np.uint8)
GREY16 = RNG.integers(0, 65535, (40, 50)).astype(np.uint16)
SQUARES = np.zeros((40, 50), np.uint8)
SQUARES[5:15, 5:15], SQUARES[20:30, 20:40] = 1, 2


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
def test_folder_of_binary_masks(tmp_path, name):
    make_folder(
        tmp_path, {name: GREY8}, {"a.png": (SQUARES > 0).astype(np.uint8) * 255}
    )
    data, [frame] = frames_of(folder, tmp_path)
    image, truth = sources.check_frame(frame, data, channels=1, classes=2)
    assert image.shape == (40, 50, 1)
    if not name.endswith("jpg"):
        np.testing.assert_array_equal(image[..., 0], GREY8)
    np.testing.assert_array_equal(truth.classes, SQUARES > 0)
    assert truth.instances.max() == 2


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_folder_of_class_masks_in_16_bit(tmp_path, name):
    mask = SQUARES.astype(np.uint16)
    mask[0] = UNLABELLED
    make_folder(tmp_path, {name: GREY16}, {name: mask})
    data, [frame] = frames_of(folder, tmp_path, labels="class")
    image, truth = sources.check_frame(frame, data, channels=1, classes=3)
    np.testing.assert_array_equal(image[..., 0], GREY16)
    np.testing.assert_array_equal(truth.classes, mask)
    line = problems(sources.check_frame, frame, data, channels=1, classes=2)
    assert "class 2" in line and "config.model.classes" in line


def test_folder_of_instance_masks_keeps_touching_cells_apart(tmp_path):
    instances = np.zeros((40, 50), np.uint16)
    instances[5:15, 5:15], instances[5:15, 15:25] = 300, 60000
    make_folder(tmp_path, {"a.tif": GREY8}, {"a.tif": instances})
    data, [frame] = frames_of(folder, tmp_path, labels="instance")
    truth = truth_of(data, frame)
    assert set(np.unique(truth.instances)) == {0, 300, 60000}
    assert truth.classes.max() == 1


def test_palette_masks_keep_their_indices(tmp_path):
    make_folder(tmp_path, {"a.png": GREY8}, {})
    picture = Image.new("P", SQUARES.shape[::-1])
    picture.putpalette([10, 20, 30, 200, 0, 0, 0, 0, 200])
    picture.putdata(SQUARES.ravel().tolist())
    picture.save(tmp_path / "masks/a.png")
    np.testing.assert_array_equal(
        read_labels(Page(str(tmp_path / "masks/a.png"))), SQUARES
    )


def test_jpeg_masks(tmp_path):
    """Compression changes values: binary masks are halved, others refused."""
    disc = np.hypot(*(np.mgrid[:64, :64] - 32)) < 20
    make_folder(tmp_path, {"a.jpg": np.tile(GREY8[:16, :16], (4, 4))}, {})
    path = str(tmp_path / "masks/a.jpg")
    cv2.imwrite(path, disc.astype(np.uint8) * 255, [cv2.IMWRITE_JPEG_QUALITY, 75])
    assert (cv2.imread(path, 0) > 0).sum() > 1.1 * disc.sum()  # what 'not 0' would say
    data, [frame] = frames_of(folder, tmp_path)
    assert (truth_of(data, frame).classes == disc).mean() > 0.99
    for labels in ("class", "instance"):
        data, [frame] = frames_of(folder, tmp_path, labels=labels)
        assert "JPEG changes pixel values" in problems(truth_of, data, frame)


def test_16_bit_rgb_masks_keep_their_ids(tmp_path):
    ids = SQUARES.astype(np.uint16) * 300
    path = str(tmp_path / "a.png")
    cv2.imwrite(path, np.dstack([ids] * 3))
    np.testing.assert_array_equal(read_labels(Page(path)), ids)


def test_labels_that_cannot_be_told_apart_are_refused(tmp_path):
    path = str(tmp_path / "a.tif")
    for wrong in (np.uint64(2**32 + 5), np.float32(3e10), np.int16(-1)):
        tifffile.imwrite(path, np.full((9, 9), wrong))
        assert "can be told apart" in problems(read_labels, Page(path))
    tifffile.imwrite(path, np.full((9, 9), 0.5, np.float32))
    assert "not whole numbers" in problems(read_labels, Page(path))


def test_mask_drawn_in_the_alpha_channel_is_refused(tmp_path):
    path = str(tmp_path / "a.png")
    cv2.imwrite(path, np.dstack([SQUARES * 0] * 3 + [SQUARES * 100]))
    assert "transparent" in problems(read_labels, Page(path))


def test_a_stack_among_flat_images_is_refused(cells, tmp_path):
    shutil.copytree(cells, tmp_path / "c")
    path = tmp_path / "c/01/t001.tif"
    stack = np.stack([tifffile.imread(path)] * 3)
    tifffile.imwrite(path, stack, photometric="minisblack")
    data, frames = frames_of(dic_hela, tmp_path / "c", labels="gold")
    line = problems(sources.check_frame, frames[1], data, channels=1, classes=2)
    assert "t001.tif: 3 pages" in line


def write_stacks(folder, depth=5):
    """A 3D set: silver truth of whole stacks, gold of single slices."""
    rng = np.random.default_rng(0)
    for name in ("01", "01_GT/SEG", "01_GT/TRA", "01_ST/SEG"):
        (folder / name).mkdir(parents=True)
    gray = dict(photometric="minisblack")
    for time in ("000", "001"):
        images = rng.integers(0, 200, (depth, 40, 50)).astype(np.uint8)
        truth = np.zeros((depth, 40, 50), np.uint16)
        for z in range(depth):
            truth[z, 5:20, 5 : 20 + z] = 7
        tifffile.imwrite(folder / f"01/t{time}.tif", images, **gray)
        tifffile.imwrite(folder / f"01_ST/SEG/man_seg{time}.tif", truth, **gray)
        tifffile.imwrite(folder / f"01_GT/TRA/man_track{time}.tif", truth, **gray)
    gold = np.where(truth[2] > 0, 9, 0).astype(np.uint16)
    tifffile.imwrite(folder / "01_GT/SEG/man_seg_001_002.tif", gold, **gray)


def test_stacks_of_the_challenge_are_read_as_slices(tmp_path):
    write_stacks(tmp_path / "c")
    data, frames = frames_of(dic_hela, tmp_path / "c", labels="gold")
    assert [frame.name for frame in frames] == ["t001-z002"]
    data, frames = frames_of(dic_hela, tmp_path / "c", labels="both")
    assert [f.name for f in frames] == [
        f"t{t}-z{z:03d}" for t in ("000", "001") for z in range(5)
    ]
    for frame in frames:
        image, truth = sources.check_frame(frame, data, channels=1, classes=2)
        z = int(frame.name[-3:])
        stack = tifffile.imread(frame.image.path)
        np.testing.assert_array_equal(image[..., 0], stack[z])
        assert truth.classes.sum() == 15 * (15 + z)
        assert truth.instances.max() == (9 if frame.name == "t001-z002" else 7)


def test_stacks_with_other_slices_than_their_truth_are_refused(tmp_path):
    write_stacks(tmp_path / "c")
    path = tmp_path / "c/01_ST/SEG/man_seg001.tif"
    tifffile.imwrite(path, tifffile.imread(path)[:3], photometric="minisblack")
    line = problems(frames_of, dic_hela, tmp_path / "c", labels="silver")
    assert "man_seg001.tif: 3 slices" in line and "t001.tif has 5" in line


def test_marker_that_merely_touches_a_label_is_unlabelled():
    instances, markers = np.zeros((2, 60, 60), np.int32)
    instances[20:30, 20:30], markers[23:26, 23:26] = 1, 1
    markers[24:28, 29:34] = 2  # one column of it on the labelled cell
    unlabelled = ctc.unlabelled_surroundings(instances, markers)
    assert unlabelled[25, 33] and not unlabelled[instances > 0].any()


def test_stacks_in_a_folder_are_slices(tmp_path):
    stack = np.stack([GREY8, GREY8 + 1, GREY8 + 2])
    make_folder(tmp_path, {"s.tif": stack}, {"s.tif": np.stack([SQUARES] * 3)})
    _, frames = frames_of(folder, tmp_path)
    assert [frame.name for frame in frames] == ["s-z000", "s-z001", "s-z002"]
    np.testing.assert_array_equal(sources.read_frame(frames[2], 1)[..., 0], GREY8 + 2)


def test_mask_suffix(tmp_path):
    make_folder(
        tmp_path, {"a.png": GREY8}, {"a_mask.png": SQUARES, "note.png": SQUARES}
    )
    _, frames = frames_of(folder, tmp_path, mask_suffix="_mask")
    assert [frame.name for frame in frames] == ["a"]


def test_rgb_float_and_planar_images(tmp_path):
    colour = RNG.integers(0, 255, (40, 50, 3)).astype(np.uint8)
    path = str(tmp_path / "rgb.png")
    cv2.imwrite(path, colour[..., ::-1])
    np.testing.assert_array_equal(read_image(Page(path), 3), colour)
    line = problems(read_image, Page(path), 1)
    assert "3 channels" in line and "config.model.channels promises 1" in line

    grey = str(tmp_path / "grey-as-rgb.png")
    cv2.imwrite(grey, np.repeat(GREY8[..., None], 3, axis=-1))
    np.testing.assert_array_equal(read_image(Page(grey), 1)[..., 0], GREY8)

    planar = str(tmp_path / "planar.tif")
    tifffile.imwrite(
        planar, np.moveaxis(colour, -1, 0), photometric="rgb", planarconfig="separate"
    )
    np.testing.assert_array_equal(read_image(Page(planar), 3), colour)

    real = str(tmp_path / "float.tif")
    tifffile.imwrite(real, GREY8.astype(np.float32) / 100 - 1)
    spread = read_image(Page(real), 1)
    assert spread.dtype == np.uint16 and spread.min() == 0 and spread.max() == 65535

    tifffile.imwrite(real, np.full((9, 9), np.nan, np.float32))
    assert "NaN" in problems(read_image, Page(real), 1)


def test_broken_files_name_themselves(tmp_path, cells):
    cut = (cells / "01/t000.tif").read_bytes()[:-200]
    for name, content in {"cut.tif": cut, "x.png": b"no", "e.jpg": b""}.items():
        (tmp_path / name).write_bytes(content)
        line = problems(read_image, Page(str(tmp_path / name)), 1)
        assert name in line and "cannot be read" in line and "\n" not in line
    assert "no such file" in problems(read_image, Page(str(tmp_path / "gone.tif")), 1)


def test_mismatched_folder_lists_everything(tmp_path):
    make_folder(
        tmp_path, {"a.png": GREY8, "b.png": GREY8}, {"b.png": SQUARES, "c.png": SQUARES}
    )
    lines = problems(frames_of, folder, tmp_path).splitlines()
    assert len(lines) == 2
    assert "a.png: image without mask" in lines[0]
    assert "c.png: mask without image" in lines[1]


def test_shape_mismatch_names_both(tmp_path):
    make_folder(tmp_path, {"a.png": GREY8}, {"a.png": SQUARES[:30]})
    data, [frame] = frames_of(folder, tmp_path)
    line = problems(sources.check_frame, frame, data, channels=1, classes=2)
    assert "30 x 50" in line and "40 x 50" in line and "masks" in line


def test_constant_image_is_refused(tmp_path):
    make_folder(tmp_path, {"a.png": np.full((40, 50), 7, np.uint8)}, {"a.png": SQUARES})
    data, [frame] = frames_of(folder, tmp_path)
    assert "every pixel is 7" in problems(
        sources.check_frame, frame, data, channels=1, classes=2
    )


@pytest.mark.parametrize("module", [dic_hela, isbi2012, folder])
def test_empty_and_missing_folders(tmp_path, module):
    assert str(tmp_path) in problems(frames_of, module, tmp_path)
    assert "no such folder" in problems(frames_of, module, tmp_path / "gone")


def test_ctc_label_without_image(cells, tmp_path):
    shutil.copytree(cells, tmp_path / "c")
    (tmp_path / "c/01/t005.tif").unlink()
    line = problems(frames_of, dic_hela, tmp_path / "c", labels="gold")
    assert "man_seg005.tif: label without image" in line


def test_real_gold_is_partial_where_the_challenge_says(real_data):
    data, frames = frames_of(dic_hela, real_data / "DIC-C2DH-HeLa", labels="gold")
    assert len(frames) == 9
    by_name = {frame.name: truth_of(data, frame) for frame in frames}
    assert len(np.unique(by_name["t067"].instances)) - 1 == 3
    assert (by_name["t067"].classes == UNLABELLED).mean() > 0.5
    for name in ("t034", "t039"):
        assert 0 < (by_name[name].classes == UNLABELLED).mean() < 0.3
    for name in ("t002", "t005", "t021", "t031", "t033", "t054"):
        assert not (by_name[name].classes == UNLABELLED).any()


def test_real_silver_completes_gold(real_data):
    data, frames = frames_of(dic_hela, real_data / "DIC-C2DH-HeLa", labels="both")
    assert len(frames) == 48
    [partial] = [frame for frame in frames if frame.name == "t067"]
    truth = truth_of(data, partial)
    assert len(np.unique(truth.instances)) - 1 == 18
    assert not (truth.classes == UNLABELLED).any()


def test_real_u373_and_isbi(real_data):
    data, frames = frames_of(phc_u373, real_data / "PhC-C2DH-U373", labels="gold")
    assert len(frames) == 15
    image, _ = sources.check_frame(frames[0], data, channels=1, classes=2)
    assert image.shape == (520, 696, 1)
    data, frames = frames_of(isbi2012, real_data / "isbi2012")
    assert len(frames) == 20
    _, truth = sources.check_frame(frames[7], data, channels=1, classes=2)
    assert 0.7 < truth.classes.mean() < 0.85


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_masks_of_few_bits_hold_their_numbers(tmp_path, bits):
    labels = np.arange(64).reshape(8, 8) % 2**bits
    rows = np.unpackbits(labels.astype(np.uint8)[..., None], axis=2)[..., 8 - bits :]
    packed = np.packbits(rows.reshape(8, -1), axis=1)
    raw = b"".join(b"\0" + row.tobytes() for row in packed)

    def chunk(kind, content):
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    header = struct.pack(">IIBBBBB", 8, 8, bits, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    content += chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    (tmp_path / "m.png").write_bytes(content)
    found = read_labels(Page(str(tmp_path / "m.png")))
    np.testing.assert_array_equal(found, labels)


def test_slices_that_belong_to_no_image_are_named(tmp_path):
    write_stacks(tmp_path / "c")
    gold = tmp_path / "c/01_GT/SEG"
    shutil.copy(gold / "man_seg_001_002.tif", gold / "man_seg_000_099.tif")
    line = problems(frames_of, dic_hela, tmp_path / "c", labels="both")
    assert "man_seg_000_099.tif" in line and "5 slices" in line


def test_truth_of_a_slice_of_a_flat_image_is_named(cells, tmp_path):
    shutil.copytree(cells, tmp_path / "c")
    gold = tmp_path / "c/01_GT/SEG"
    (gold / "man_seg002.tif").rename(gold / "man_seg_002_000.tif")
    line = problems(frames_of, dic_hela, tmp_path / "c", labels="gold")
    assert "man_seg_002_000.tif: truth of a slice" in line


def test_a_broken_stack_does_not_condemn_the_others(tmp_path):
    write_stacks(tmp_path / "c")
    path = tmp_path / "c/01/t000.tif"
    path.write_bytes(path.read_bytes()[:100])
    data = dic_hela.get_config().data
    data.labels = "silver"
    found = sources.look_for_frames(data, str(tmp_path / "c"))
    assert len(found.frames) == 5 and len(found.problems) == 1
    assert "t000.tif" in found.problems[0]


def test_same_names_are_named(cells, tmp_path):
    shutil.copytree(cells, tmp_path / "c")
    shutil.copy(tmp_path / "c/01/t001.tif", tmp_path / "c/01/t001.tiff")
    line = problems(frames_of, dic_hela, tmp_path / "c", labels="gold")
    assert "t001.tiff" in line and "same name" in line


def test_a_fourth_channel_that_is_not_alpha_is_refused(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (20, 20, 4)).astype(np.uint8)
    for name, more in (("four", {}), ("alpha", {"extrasamples": ["unassalpha"]})):
        kind = "rgb" if more else "minisblack"
        tifffile.imwrite(
            tmp_path / f"{name}.tif", image, photometric=kind, planarconfig=1, **more
        )
    found = read_image(Page(str(tmp_path / "alpha.tif")), 3)
    np.testing.assert_array_equal(found, image[..., :3])
    line = problems(read_image, Page(str(tmp_path / "four.tif")), 3)
    assert "4 channels" in line
