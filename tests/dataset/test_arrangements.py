"""Folders as people arrange them: which image goes with which masks."""

import dataclasses
import unicodedata

import numpy as np
import pytest
from PIL import Image

from configs import folder as own_images
from tests.commands import mistakes, run
from tests.dataset.kinds import ARRANGED
from tests.folders import FOLDER
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset import splits
from unet_tfrecords.dataset.dataset_info import read_info
from unet_tfrecords.dataset.drawn_cells import draw_cells
from unet_tfrecords.dataset.images import layouts

IMAGE = np.arange(20 * 30, dtype=np.uint8).reshape(20, 30)
CELLS = np.kron(np.array([[1, 0], [0, 2]], np.uint8), np.ones((10, 15), np.uint8))


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def frames_of(folder, **settings):
    data = own_images.get_config().data
    data.update({"labels": "instance"} | settings)
    return layouts.find_frames(data, str(folder)), data


@pytest.mark.parametrize("image, mask, name", ARRANGED)
def test_images_find_their_masks(tmp_path, image, mask, name):
    """With their names; of the same name in two subfolders, each has its own mask."""
    plates = ("p1", "p2", "p10") if "plate" in name else ("plate",)
    expected = []
    for plate in plates:
        for stem in ("a1", "a2", "a10"):
            here = [
                text.replace("NAME", stem).replace("plate", plate)
                for text in (image, mask, name)
            ]
            save(tmp_path / here[0], IMAGE)
            save(tmp_path / here[1], CELLS)
            expected.append(here)
    save(tmp_path / ".cache/images/x.png", IMAGE)
    frames, data = frames_of(tmp_path)
    assert [[frame.image.path, frame.label.path, frame.name] for frame in frames] == [
        [f"{tmp_path}/{i}", f"{tmp_path}/{m}", n] for i, m, n in expected
    ]
    _, truth = layouts.check_frame(frames[0], data, channels=1, classes=2)
    np.testing.assert_array_equal(truth.instances, CELLS)


@pytest.mark.slow
def test_every_arrangement_makes_the_same_shards(tmp_path):
    """By the command; subfolders, which are part of the key, among themselves."""
    drawn = {f"a{i}": pair for i, pair in enumerate(draw_cells(48, 5, 3))}
    found = {}
    for number, (image, mask, name) in enumerate(ARRANGED):
        for stem, (pixels, instances) in drawn.items():
            save(tmp_path / f"{number}" / image.replace("NAME", stem), pixels)
            mask_file = tmp_path / f"{number}" / mask.replace("NAME", stem)
            save(mask_file, (instances > 0) * np.uint8(255))
        settings = (*FOLDER, "--config.data.name=same", "--config.data.augmentations=1")
        where = {"input": tmp_path / f"{number}", "output": tmp_path / f"{number}-data"}
        assert run("preprocess", *settings, **where) == 0
        shards = sorted(where["output"].glob("*.tfrecord"))
        assert len(shards) > 2
        found.setdefault(name, set()).add(tuple(path.read_bytes() for path in shards))
    # A single plate is a folder around it all, but below images/ and masks/.
    assert len(found["NAME"]) == 1 and len(found["plate/NAME"]) == 2


def test_a_mask_an_image_in_folders_of_one_is_no_object(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / name / f"images/{name}.png", IMAGE)
        save(tmp_path / name / f"masks/{name}.png", CELLS)
    frames, _ = frames_of(tmp_path)
    assert [frame.name for frame in frames] == ["a/a", "b/b"]
    assert not any(frame.objects for frame in frames)


def test_groups_are_found_by_a_pattern_and_not_divided(tmp_path):
    for number in range(24):
        name = f"s{number}_patient{number % 6}"
        save(tmp_path / f"images/{name}.png", IMAGE)
        save(tmp_path / f"masks/{name}.png", CELLS)
    frames, data = frames_of(tmp_path, group="patient[0-9]+")
    assert {f.sequence for f in frames} == {f"patient{i}" for i in range(6)}
    assert all(f.name.endswith(f.sequence) for f in frames)
    for method, test, validation in (("auto", 2, 1), ("fold", 1, 1)):
        data.split.update(method=method, folds=6, test=0.25, validation=0.15)
        assigned = splits.assign_splits(frames, data.split, grouped=True)
        groups = {
            name: {f.sequence for f in assigned if f.split == name}
            for name in splits.SPLITS
        }
        sizes = {name: len(found) for name, found in groups.items()}
        assert sizes == {
            "train": 6 - test - validation,
            "validation": validation,
            "test": test,
        }
        assert len(set.union(*groups.values())) == 6
    data.split.method = "block"
    with pytest.raises(UserError, match="would divide the groups"):
        splits.assign_splits(frames, data.split, grouped=True)
    for pattern, said in (("plate", "matches nothing"), ("(", "no regular expression")):
        with pytest.raises(UserError, match=said):
            frames_of(tmp_path, group=pattern)


def test_a_single_group_leaves_nothing_to_test_on(tmp_path):
    for number in range(4):
        save(tmp_path / f"images/pat{number}.png", IMAGE)
        save(tmp_path / f"masks/pat{number}.png", CELLS)
    frames, data = frames_of(tmp_path, group="(pat)[0-9]+")
    with pytest.raises(UserError, match="1 sequences or groups .* need 3"):
        splits.assign_splits(frames, data.split, grouped=True)


def test_files_that_would_vanish_are_named(tmp_path):
    """Broken links, folders that differ in case alone, images without any mask."""
    for name in ("a", "b", "c"):
        save(tmp_path / f"{name}/images/{name}.png", IMAGE)
        save(tmp_path / f"{name}/masks/1.png", CELLS)
        save(tmp_path / f"{name}/masks/2.png", CELLS)
    save(tmp_path / "d/images/d.png", IMAGE)
    (tmp_path / "c/images/c.png").unlink()
    (tmp_path / "c/images/c.png").symlink_to(tmp_path / "gone.png")
    found = layouts.look_for_frames(own_images.get_config().data, str(tmp_path))
    [link] = [frame for frame in found.frames if frame.name == "c"]
    with pytest.raises(UserError, match="c/images/c.png: no such file"):
        layouts.check_frame(link, own_images.get_config().data, channels=1, classes=2)
    assert any("d/images/d.png: image without mask" in line for line in found.problems)
    save(tmp_path / "a/Images/a.png", IMAGE)
    with pytest.raises(UserError, match="has both .*mages and .*mages; keep one"):
        frames_of(tmp_path)


def test_notes_of_cellpose_beside_an_image_are_no_image(tmp_path):
    for name in ("a.png", "a_cp_masks.png", "b.png", "b_cp_masks.png"):
        save(tmp_path / name, CELLS)
    (tmp_path / "a_seg.npy").touch()
    frames, _ = frames_of(tmp_path)
    assert [frame.name for frame in frames] == ["a", "b"]


def test_what_is_left_out_is_listed(tmp_path):
    for name in ("imagesTr/a_0000.png", "labelsTr/a.png", "imagesTs/b_0000.png"):
        save(tmp_path / name, CELLS)
    (tmp_path / "dataset.json").touch()
    (tmp_path / "imagesTs/c.czi").touch()
    found = layouts.look_for_frames(own_images.get_config().data, str(tmp_path))
    names = [path.removeprefix(f"{tmp_path}/") for path in found.left_out]
    assert names == ["dataset.json", "imagesTs/b_0000.png", "imagesTs/c.czi"]


def test_two_arrangements_are_both_named(tmp_path):
    for name in ("images/a.png", "masks/a.png", "a.png", "a_mask.png"):
        save(tmp_path / name, CELLS)
    [line] = mistakes(frames_of, tmp_path)
    assert "images/ and masks/ as well as NAME.* and NAME_mask.*" in line


def test_both_masks_and_labels_are_refused(tmp_path):
    for name in ("images/a.png", "masks/a.png", "labels/a.png"):
        save(tmp_path / name, CELLS)
    with pytest.raises(UserError, match="has both labels and masks"):
        frames_of(tmp_path)


def test_a_second_channel_in_a_file_of_its_own_is_named(tmp_path):
    for name in ("imagesTr/a_0000.png", "imagesTr/a_0001.png", "labelsTr/a.png"):
        save(tmp_path / name, CELLS)
    save(tmp_path / "imagesTr/b.png", CELLS)
    assert mistakes(frames_of, tmp_path) == [
        f"{tmp_path}/imagesTr/a_0001.png: a channel in a file of its own is not read; "
        "save all channels of an image in one TIFF",
        f"{tmp_path}/imagesTr/b.png: names of images end with _0000",
    ]


def test_an_accent_of_one_or_two_characters_is_the_same(tmp_path):
    """As when images were unpacked on a Mac and masks were not."""
    for folder, form in (("images", "NFD"), ("masks", "NFC")):
        save(tmp_path / folder / unicodedata.normalize(form, "Zür.png"), CELLS)
    frames, _ = frames_of(tmp_path)
    assert [frame.name for frame in frames] == [unicodedata.normalize("NFD", "Zür")]
    save(tmp_path / "images" / unicodedata.normalize("NFC", "Zür.png"), IMAGE)
    [line] = mistakes(frames_of, tmp_path)  # the mask is that of its very name
    assert unicodedata.normalize("NFD", "Zür.png: image without mask") in line


def test_masks_named_otherwise_than_images_are_explained(tmp_path):
    for name in ("images/img_1.png", "masks/mask_1.png"):
        save(tmp_path / name, CELLS)
    assert mistakes(frames_of, tmp_path)[0] == (
        f"{tmp_path}/masks: no mask has the name of an image, as mask_1 and img_1; "
        "name both alike (a suffix of the masks may remain)"
    )


@pytest.mark.parametrize("place", ["masks/", "images/"])
def test_two_masks_of_an_image_are_refused(tmp_path, place):
    beside = place == "images/"
    folder = tmp_path / "there"
    save(folder / ("a.png" if beside else "images/a.png"), IMAGE)
    for name in ("a_mask.png", "a-mask.png"):
        save(folder / (name if beside else f"masks/{name}"), CELLS)
    said = " ".join(mistakes(frames_of, folder))
    assert "a_mask.png" in said and "a-mask.png" in said


@pytest.mark.parametrize(
    "there, names",
    [
        # A stray mask changes nothing for the others.
        (["p/images/a.png", "p/masks/a.png", "q/images/b.png", "q/masks/b.png"], "ab"),
        (["image/a.png", "mask/a.png"], "a"),
        (["images/a.ome.tif", "masks/a.png"], "a"),
        (["images/a.png", "masks/a.png", "labels/a.txt"], "a"),
        (["images/a.png", "masks/a.png", "p/images/b.png", "p/masks/b.png"], "ab"),
        (["a.png", "a_mask.png", "p/b.png", "p/b_mask.png"], "ab"),
    ],
)
def test_every_pair_counts(tmp_path, there, names):
    for name in there:
        save(tmp_path / name, IMAGE) if name[-3:] != "txt" else touch(tmp_path / name)
    frames, _ = frames_of(tmp_path)
    assert [frame.name[-1] for frame in frames] == [*names]
    assert not any(frame.objects for frame in frames)


def test_other_things_beside_a_data_set_are_left_out(tmp_path):
    there = ["images/a.png", "masks/a.png", "test/images/c.png"]
    for name in (*there, "previews/a.png", "previews/a_mask.png"):
        save(tmp_path / name, CELLS)
    found = layouts.look_for_frames(own_images.get_config().data, str(tmp_path))
    assert [frame.name for frame in found.frames] == ["a"]
    assert not found.problems and len(found.left_out) == 3


def test_files_inside_a_folder_named_zarr_are_read(tmp_path):
    for name in ("images/a.png", "masks/a.png"):
        save(tmp_path / "my.zarr" / name, CELLS)
    frames, _ = frames_of(tmp_path / "my.zarr")
    assert len(frames) == 1


def test_a_stray_mask_makes_no_single_objects(tmp_path):
    for name in ("p/images/a.png", "p/masks/a.png", "q/images/b.png", "q/masks/b.png"):
        save(tmp_path / name, CELLS)
    save(tmp_path / "q/masks/c.png", CELLS)
    [line] = mistakes(frames_of, tmp_path)
    assert "q/masks/c.png: mask without image" in line


def test_groups_that_differ_in_case_are_refused(tmp_path):
    for name in ("P1_a.png", "p1_b.png", "p2_c.png"):
        save(tmp_path / "images" / name, IMAGE)
        save(tmp_path / "masks" / name, CELLS)
    [line] = mistakes(frames_of, tmp_path, group="(?i)p[0-9]")
    assert "finds both 'P1' and 'p1'" in line


def test_images_that_are_folders_are_named(tmp_path):
    touch(tmp_path / "images/a.n5/0/0/0")
    touch(tmp_path / "images/a.n5/0/0/1")
    [line] = mistakes(frames_of, tmp_path)
    assert line == f"{tmp_path}/images/a.n5: N5 is not read; convert it to TIFF"


# --- A mask an object ----------------------------------------------------------------


def by_object(folder, masks):
    save(folder / "id/images/id.png", IMAGE)
    for number, mask in enumerate(masks):
        save(folder / f"id/masks/{number}.png", mask.astype(np.uint8) * 255)


def test_masks_of_single_objects_are_put_together(tmp_path):
    by_object(tmp_path, [CELLS == 2, CELLS == 1])
    save(tmp_path / "one/images/one.png", IMAGE)
    save(tmp_path / "one/masks/only.png", np.uint8(CELLS == 1) * 255)
    frames, data = frames_of(tmp_path, labels="auto")
    assert (
        layouts.settle_labels(data, frames, [], 2)
        == "each object has a mask of its own"
    )
    assert data.labels == "instance"
    notes = []
    _, truth = layouts.check_frame(frames[0], data, channels=1, classes=2, notes=notes)
    np.testing.assert_array_equal(truth.instances, np.array([0, 2, 1])[CELLS])
    assert notes == [] and len(frames[0].pages) == 3
    _, truth = layouts.check_frame(frames[1], data, channels=1, classes=2)
    np.testing.assert_array_equal(truth.instances, CELLS == 1)


def test_overlaps_and_empty_masks_are_noted(tmp_path):
    both = CELLS > 0
    by_object(tmp_path, [CELLS == 1, both, np.zeros_like(both)])
    [frame], data = frames_of(tmp_path)
    notes = []
    _, truth = layouts.check_frame(frame, data, channels=1, classes=2, notes=notes)
    np.testing.assert_array_equal(truth.instances, CELLS)
    assert any("150 px" in note for note in notes)
    assert any(note.startswith("masks without an object") for note in notes)


def test_preprocess_puts_single_objects_together(tmp_path, capfd):
    """The shards are those of a mask with a number for each; notes say what is odd."""
    drawn = list(draw_cells(128, 5, 3))
    for index, (pixels, instances) in enumerate(drawn):
        save(tmp_path / f"single/f{index}/images/f{index}.png", pixels)
        save(tmp_path / f"whole/images/f{index}.png", pixels)
        save(tmp_path / f"whole/masks/f{index}.png", instances)
        place = tmp_path / f"single/f{index}/masks"
        for number in range(1, instances.max() + 1):
            save(place / f"{number:02d}.png", (instances == number) * np.uint8(255))
        save(place / "99.png", (instances == 1) * np.uint8(255))  # once more
        save(place / "empty.png", np.zeros_like(instances))
    for name in ("single", "whole"):
        settings = (*FOLDER, "--config.data.name=same", "--config.data.labels=instance")
        where = {"input": tmp_path / name, "output": tmp_path / f"{name}-data"}
        assert run("preprocess", *settings, **where) == 0
    assert "masks of single objects an image" in capfd.readouterr().out
    for path in (tmp_path / "whole-data").glob("*.tfrecord"):
        assert path.read_bytes() == (tmp_path / "single-data" / path.name).read_bytes()
    notes = str(read_info(f"{tmp_path}/single-data").notes)
    assert "masks of objects overlap" in notes and "masks without an object" in notes


def test_more_than_255_objects_keep_their_numbers(tmp_path):
    masks = []
    for index in range(300):
        mask = np.zeros(CELLS.shape, bool)
        mask.flat[2 * index] = True
        masks.append(mask)
    by_object(tmp_path, masks)
    [frame], data = frames_of(tmp_path)
    _, truth = layouts.check_frame(frame, data, channels=1, classes=2)
    assert len(np.unique(truth.instances)) == 301


def test_single_objects_in_stacks_are_refused(tmp_path):
    by_object(tmp_path, [CELLS == 1])
    pages = [Image.fromarray((CELLS == n) * np.uint8(255)) for n in (1, 2)]
    pages[0].save(tmp_path / "id/masks/a.tif", save_all=True, append_images=pages[1:])
    [line] = mistakes(frames_of, tmp_path)
    assert "a.tif: 2 pages, where each object has a mask of its own" in line


def test_single_objects_in_a_colour_are_read(tmp_path):
    by_object(tmp_path, [])
    for number in (1, 2):
        red = np.stack([(CELLS == number) * np.uint8(200), 0 * CELLS, 0 * CELLS], 2)
        save(tmp_path / f"id/masks/{number}.png", red)
    frames, data = frames_of(tmp_path)
    _, truth = layouts.check_frame(frames[0], data, channels=1, classes=2)
    np.testing.assert_array_equal(truth.instances, CELLS)


def test_a_mask_of_another_size_is_refused(tmp_path):
    by_object(tmp_path, [CELLS == 1, np.ones((5, 5), bool)])
    [frame], data = frames_of(tmp_path)
    with pytest.raises(UserError, match="1.png: 5 x 5 px, but .*0.png has 20 x 30"):
        layouts.check_frame(frame, data, channels=1, classes=2)


def test_another_reading_of_single_objects_is_refused(tmp_path):
    by_object(tmp_path, [CELLS == 1, CELLS == 2])
    frames, data = frames_of(tmp_path, labels="binary")
    with pytest.raises(UserError, match="which is instance"):
        layouts.settle_labels(data, frames, [], 2)


def test_the_data_science_bowl_is_read_as_it_is(real_data):
    if not (real_data / "DSB2018").is_dir():
        pytest.skip("no DSB2018 there")
    frames, data = frames_of(real_data / "DSB2018", labels="auto")
    assert len(frames) > 50
    layouts.settle_labels(data, frames, [], 2)
    for frame in frames[:5]:
        image, truth = layouts.check_frame(frame, data, channels=3, classes=2)
        assert image.shape[2] == 3
        assert len(np.unique(truth.instances)) - 1 <= len(frame.objects)
        assert dataclasses.replace(frame, split="test").pages == frame.pages
