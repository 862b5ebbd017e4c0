"""Adapters on drawn and real data; every broken layout gets its line."""

import shutil

import numpy as np
import pytest
import tifffile
from skimage.measure import label

from configs import dic_hela, folder, isbi2012, phc_u373
from tests.dataset.layouts import frames_of, problems, truth_of
from unet_tfrecords.dataset.images import ctc_layout, layouts
from unet_tfrecords.dataset.images.formats import read_image
from unet_tfrecords.dataset.images.pages import Page
from unet_tfrecords.dataset.records import UNLABELLED


def test_ctc_layout(cells):
    data, frames = frames_of(dic_hela, cells, labels="gold")
    assert [frame.name for frame in frames] == [f"t{i:03d}" for i in range(8)]
    image, truth = layouts.check_frame(frames[2], data, channels=1, classes=2)
    assert image.shape == (128, 128, 1) and image.dtype == np.uint8
    gold = tifffile.imread(cells / "01_GT/SEG/man_seg002.tif")
    np.testing.assert_array_equal(truth.instances, gold)
    np.testing.assert_array_equal(truth.classes, gold > 0)


def test_isbi_layout(em):
    data, frames = frames_of(isbi2012, em)
    assert len(frames) == 6 and frames[4].image.number == 4
    image, truth = layouts.check_frame(frames[4], data, channels=1, classes=2)
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


def test_unlabelled_cell_and_its_surroundings_are_unlabelled(source, cells):
    identity = int(tifffile.imread(cells / "01_GT/SEG/man_seg003.tif").max())
    mask = remove_gold(source, 3, identity)
    data, frames = frames_of(dic_hela, source, labels="gold")
    truth = truth_of(data, frames[3])
    assert (truth.classes[mask] == UNLABELLED).all()
    labelled = truth.instances > 0
    assert (truth.classes[labelled] == 1).all()
    assert not (truth_of(data, frames[2]).classes == UNLABELLED).any()


def test_frame_without_any_gold_cell_is_wholly_unlabelled():
    markers = np.zeros((40, 40), np.int32)
    markers[5, 5] = 1
    empty = np.zeros_like(markers)
    assert ctc_layout.unlabelled_surroundings(empty, markers).all()
    assert not ctc_layout.unlabelled_surroundings(empty, empty).any()


def test_silver_fills_what_gold_lacks(source, cells):
    shutil.copytree(cells / "01_GT/SEG", source / "01_ST/SEG")
    whole = tifffile.imread(cells / "01_GT/SEG/man_seg003.tif")
    mask = remove_gold(source, 3, int(whole.max()))
    (source / "01_GT/SEG/man_seg004.tif").unlink()
    data, frames = frames_of(dic_hela, source, labels="both")
    truth = truth_of(data, frames[3])
    np.testing.assert_array_equal(truth.classes, whole > 0)
    assert len(np.unique(truth.instances[mask])) == 1
    assert frames[4].label is None and frames[4].silver is not None
    assert len(frames_of(dic_hela, source, labels="gold")[1]) == 7
    assert len(frames_of(dic_hela, source, labels="silver")[1]) == 8


def test_a_stack_among_flat_images_is_refused(source):
    path = source / "01/t001.tif"
    stack = np.stack([tifffile.imread(path)] * 3)
    tifffile.imwrite(path, stack, photometric="minisblack")
    data, frames = frames_of(dic_hela, source, labels="gold")
    line = problems(layouts.check_frame, frames[1], data, channels=1, classes=2)
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
        image, truth = layouts.check_frame(frame, data, channels=1, classes=2)
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
    unlabelled = ctc_layout.unlabelled_surroundings(instances, markers)
    assert unlabelled[25, 33] and not unlabelled[instances > 0].any()


def test_broken_files_name_themselves(tmp_path, cells):
    cut = (cells / "01/t000.tif").read_bytes()[:-200]
    for name, content in {"cut.tif": cut, "x.png": b"no", "e.jpg": b""}.items():
        (tmp_path / name).write_bytes(content)
        line = problems(read_image, Page(str(tmp_path / name)), 1)
        assert name in line and "cannot be read" in line and "\n" not in line
    assert "no such file" in problems(read_image, Page(str(tmp_path / "gone.tif")), 1)


@pytest.mark.parametrize("module", [dic_hela, isbi2012, folder])
def test_empty_and_missing_folders(tmp_path, module):
    assert str(tmp_path) in problems(frames_of, module, tmp_path)
    assert "no such folder" in problems(frames_of, module, tmp_path / "gone")


def test_ctc_label_without_image(source):
    (source / "01/t005.tif").unlink()
    line = problems(frames_of, dic_hela, source, labels="gold")
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
    image, _ = layouts.check_frame(frames[0], data, channels=1, classes=2)
    assert image.shape == (520, 696, 1)
    data, frames = frames_of(isbi2012, real_data / "isbi2012")
    assert len(frames) == 20
    _, truth = layouts.check_frame(frames[7], data, channels=1, classes=2)
    assert 0.7 < truth.classes.mean() < 0.85


def test_slices_that_belong_to_no_image_are_named(tmp_path):
    write_stacks(tmp_path / "c")
    gold = tmp_path / "c/01_GT/SEG"
    shutil.copy(gold / "man_seg_001_002.tif", gold / "man_seg_000_099.tif")
    line = problems(frames_of, dic_hela, tmp_path / "c", labels="both")
    assert "man_seg_000_099.tif" in line and "5 slices" in line


def test_truth_of_a_slice_of_a_flat_image_is_named(source):
    gold = source / "01_GT/SEG"
    (gold / "man_seg002.tif").rename(gold / "man_seg_002_000.tif")
    line = problems(frames_of, dic_hela, source, labels="gold")
    assert "man_seg_002_000.tif: truth of a slice" in line


def test_a_broken_stack_does_not_condemn_the_others(tmp_path):
    write_stacks(tmp_path / "c")
    path = tmp_path / "c/01/t000.tif"
    path.write_bytes(path.read_bytes()[:100])
    data = dic_hela.get_config().data
    data.labels = "silver"
    found = layouts.look_for_frames(data, str(tmp_path / "c"))
    assert len(found.frames) == 5 and len(found.problems) == 1
    assert "t000.tif" in found.problems[0]


def test_same_names_are_named(source):
    shutil.copy(source / "01/t001.tif", source / "01/t001.tiff")
    line = problems(frames_of, dic_hela, source, labels="gold")
    assert "t001.tiff" in line and "same name" in line
