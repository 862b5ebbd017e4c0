"""OME-Zarr: what is read of it, by page, resolution and window."""

import pathlib
import shutil
import subprocess

import numpy as np
import pytest
import tifffile
import zarr

from configs import folder as own_images
from tests.cloud import stores as loopback
from tests.commands import ROOT
from tests.dataset import ome_zarr
from tests.dataset.layouts import frames_of, problems, truth_of
from unet_tfrecords.dataset.images import formats, zarr_image
from unet_tfrecords.dataset.images.pages import Page, Planes
from unet_tfrecords.storage import files, stores

OTHER = ROOT / ".engines/ome-zarr/bin/python"  # see .ci/engines
RANDOM = np.random.default_rng(0)
versions = pytest.mark.parametrize("version", [*ome_zarr.VERSIONS])


def image_of(*shape: int, dtype=np.uint16) -> np.ndarray:
    return RANDOM.integers(1, 200, shape, dtype)


def cells(height: int = 70, width: int = 90) -> np.ndarray:
    found = np.zeros((height, width), np.uint16)
    found[5:20, 5:20], found[30:60, 40:70] = 1, 2
    return found


@versions
def test_pages_are_times_and_slices_with_channels_last(tmp_path, version):
    array = image_of(2, 3, 4, 70, 90)
    path = str(ome_zarr.write(tmp_path / "a.zarr", array, "tczyx", version=version))
    assert formats.count_pages(path) == 8
    header = formats.header_of(Page(path))
    assert header == (70, 90, 3, "uint16")
    for number in range(8):
        time, z = divmod(number, 4)
        read = formats.read_image(Page(path, number), 3)
        np.testing.assert_array_equal(read, np.moveaxis(array[time, :, z], 0, -1))


@versions
@pytest.mark.parametrize("axes", ["yx", "zyx", "cyx", "tyx"])
def test_axes_may_be_fewer(tmp_path, version, axes):
    array = image_of(*(2,) * (len(axes) - 2), 33, 65, dtype=np.uint8)
    path = str(ome_zarr.write(tmp_path / "a.zarr", array, axes, version=version))
    header = formats.header_of(Page(path))
    expected = array if axes == "yx" else array[0]
    if axes == "cyx":
        expected = np.moveaxis(array, 0, -1)
    assert header.channels == (2 if axes == "cyx" else 1)
    read = formats.read_image(Page(path), header.channels)
    np.testing.assert_array_equal(read.squeeze(), expected)


@versions
def test_resolutions_are_chosen_and_have_their_pixel_size(tmp_path, version):
    array = image_of(64, 96)
    how = {"version": version, "levels": 3}
    path = str(ome_zarr.write(tmp_path / "a.zarr", array, **how))
    [page] = formats.pages_of(path, Planes(level=2))
    np.testing.assert_array_equal(formats.read_image(page, 1)[..., 0], array[::4, ::4])
    assert formats.pixel_size_um(Page(path)) == (0.5, 0.5)
    assert formats.pixel_size_um(page) == (2.0, 2.0)


def test_times_and_slices_are_chosen(tmp_path):
    path = str(ome_zarr.write(tmp_path / "a.zarr", image_of(3, 4, 8, 8), "tzyx"))
    chosen = formats.pages_of(path, Planes(times=(0, 2), slices=(1,)))
    assert [page.number for page in chosen] == [1, 9]
    assert "has times 0 to 2, but time 3 was given" in problems(
        formats.pages_of, path, Planes(times=(3,))
    )
    assert "has levels 0 to 0" in problems(formats.pages_of, path, Planes(1))


def test_a_window_reads_only_the_chunks_that_it_touches(tmp_path, monkeypatch):
    array = image_of(128, 128)
    path = str(ome_zarr.write(tmp_path / "a.zarr", array))  # chunks of 32 px
    read, before = [], files.read_range
    monkeypatch.setattr(
        files, "read_range", lambda p, *limits: read.append(p) or before(p, *limits)
    )
    found = zarr_image.read_window(Page(path), slice(30, 40), slice(64, 70))
    np.testing.assert_array_equal(found.values, array[30:40, 64:70])
    chunks = {p.removeprefix(path) for p in read if p[-1].isdecimal()}
    assert chunks == {"/0/0.2", "/0/1.2"}


@versions
def test_labels_inside_are_masks(tmp_path, version):
    image = image_of(70, 90, dtype=np.uint8)
    path = ome_zarr.write(tmp_path / "a.ome.zarr", image, version=version)
    ome_zarr.add_labels(path, "cells", cells(), version=version)
    data, [frame] = frames_of(own_images, tmp_path, labels="instance")
    assert frame.name == "a"
    np.testing.assert_array_equal(truth_of(data, frame).instances, cells())
    # In a folder of images, too.
    (tmp_path / "images").mkdir()
    shutil.move(path, tmp_path / "images")
    _, [frame] = frames_of(own_images, tmp_path, labels="instance")
    assert frame.label.path.endswith("/images/a.ome.zarr/labels/cells")


def test_of_several_labels_one_must_be_named(tmp_path):
    path = ome_zarr.write(tmp_path / "a.zarr", image_of(70, 90))
    for name in ("cells", "nuclei"):
        ome_zarr.add_labels(path, name, cells())
    line = problems(frames_of, own_images, tmp_path)
    assert "has the labels cells, nuclei; name one of them" in line
    _, [frame] = frames_of(own_images, tmp_path, mask_suffix="nuclei")
    assert frame.label.path == f"{path}/labels/nuclei"


def test_masks_beside_images_may_be_of_either_format(tmp_path):
    ome_zarr.write(tmp_path / "images/a.zarr", image_of(70, 90))
    ome_zarr.write(tmp_path / "masks/a.zarr", cells())
    ome_zarr.write(tmp_path / "images/b.zarr", image_of(70, 90))
    tifffile.imwrite(tmp_path / "masks/b.tif", cells())
    data, frames = frames_of(own_images, tmp_path, labels="instance")
    for frame in frames:
        np.testing.assert_array_equal(truth_of(data, frame).instances, cells())


def test_wells_of_a_plate_and_series_are_images(tmp_path):
    images = image_of(2, 16, 16)
    plate = zarr.open_group(str(tmp_path / "p.zarr"), mode="w", zarr_format=2)
    plate.attrs["plate"] = {"wells": [{"path": "A/1"}, {"path": "B/2"}]}
    for well, image in zip(("A/1", "B/2"), images, strict=True):
        group = plate.create_group(well)
        group.attrs["well"] = {"images": [{"path": "0"}]}
        ome_zarr.write(tmp_path / "p.zarr" / well / "0", image)
    series = zarr.open_group(str(tmp_path / "s.zarr"), mode="w", zarr_format=2)
    series.attrs["bioformats2raw.layout"] = 3
    for name, image in enumerate(images):
        ome_zarr.write(tmp_path / "s.zarr" / str(name), image)
    for name in ("p.zarr", "s.zarr"):
        path = str(tmp_path / name)
        assert [page.number for page in formats.pages_of(path)] == [0, 1]
        assert formats.stack_of(Page(path, 1)) == [Page(path, 1)]
        for number, image in enumerate(images):
            read = formats.read_image(Page(path, number), 1)[..., 0]
            np.testing.assert_array_equal(read, image)


def broken(tmp_path: pathlib.Path, how: str) -> str:
    path = ome_zarr.write(tmp_path / "a.zarr", image_of(16, 16))
    if how == "packed":
        shutil.rmtree(path)
        path.write_bytes(b"PK")
    elif how == "plain":
        (path / ".zattrs").write_text("{}")
    elif how == "axes":
        text = (path / ".zattrs").read_text()
        (path / ".zattrs").write_text(text.replace('"y"', '"w"'))
    elif how == "empty":
        (path / ".zgroup").unlink()
    elif how == "array":
        shutil.rmtree(path / "0")
    elif how == "chunk":
        (path / "0/0.0").write_bytes(b"no chunk")
    elif how == "metadata":
        (path / ".zattrs").write_text("{")
    return str(path)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("packed", "is not a folder"),
        ("plain", "no OME-Zarr image"),
        ("axes", "its axes are w, x"),
        ("empty", "is no Zarr folder"),
        ("array", "metadata are broken"),
        ("chunk", "damaged (8 bytes"),
        ("metadata", "cannot be read as an image"),
    ],
)
def test_broken_folders_are_named_in_a_line(tmp_path, how, said):
    path = broken(tmp_path, how)
    line = problems(formats.read_image, Page(path), 1)
    assert line.startswith(path) and said in line and "\n" not in line


def test_settings_of_ome_zarr_are_refused_of_other_files(tmp_path):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        tifffile.imwrite(tmp_path / name / "a.tif", cells())
    for setting, value in (("level", 1), ("times", (0,)), ("slices", (0,))):
        line = problems(frames_of, own_images, tmp_path, **{setting: value})
        assert "a.tif: level, times and slices choose" in line


@pytest.mark.parametrize("scheme", ["gs", "s3", "az", "http"])
def test_images_are_read_from_stores(tmp_path, monkeypatch, scheme):
    array = image_of(70, 90)
    path = ome_zarr.write(tmp_path / "in/a.zarr", array, version="0.5")
    ome_zarr.add_labels(path, "cells", cells(), version="0.5")
    (tmp_path / "server").mkdir()
    with loopback.OPENERS[scheme](tmp_path / "server") as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        stores.forget()
        store.upload(tmp_path / "in", "set")
        data, [frame] = frames_of(own_images, f"{store.root}/set", labels="instance")
        read = formats.read_image(frame.image, 1)
        np.testing.assert_array_equal(read[..., 0], array)
        np.testing.assert_array_equal(truth_of(data, frame).instances, cells())
        stores.forget()


@versions
@pytest.mark.slow
def test_what_ome_zarr_py_writes_is_read(tmp_path, version):
    if not OTHER.exists():
        pytest.skip("no ome-zarr: .ci/engines fetches it")
    np.savez(tmp_path / "in.npz", image=image_of(2, 70, 90), labels=cells())
    script = f"""
import numpy as np, zarr
from ome_zarr import format, writer
found = np.load("in.npz")
form = format.FormatV0{version[-1]}()
group = zarr.open_group("a.zarr", mode="w", zarr_format=form.zarr_format)
writer.write_image(found["image"], group, axes="cyx", fmt=form)
writer.write_labels(found["labels"], group, name="cells", axes="yx", fmt=form)
"""
    subprocess.run([OTHER, "-c", script], cwd=tmp_path, check=True, timeout=120)
    with np.load(tmp_path / "in.npz") as opened:
        image = opened["image"]
    (tmp_path / "in.npz").unlink()
    data, [frame] = frames_of(own_images, tmp_path, labels="instance")
    read = formats.read_image(frame.image, 2)
    np.testing.assert_array_equal(np.moveaxis(read, -1, 0), image)
    np.testing.assert_array_equal(truth_of(data, frame).instances, cells())


def test_labels_of_other_times_and_slices_are_refused(tmp_path):
    """Six pages each, but not of the same times and z."""
    path = ome_zarr.write(tmp_path / "a.zarr", image_of(2, 3, 16, 16), "tzyx")
    ome_zarr.add_labels(path, "cells", image_of(3, 2, 16, 16), axes="tzyx")
    line = problems(frames_of, own_images, tmp_path)
    assert f"3 times and 2 z, but {path} has 2 and 3" in line


def test_a_resolution_that_is_smaller_in_z_is_refused(tmp_path):
    path = ome_zarr.write(tmp_path / "a.zarr", image_of(6, 16, 16), "zyx", levels=2)
    shutil.rmtree(path / "1")
    half = zarr.open_group(str(path)).create_array("1", shape=(3, 8, 8), dtype="u2")
    half[...] = 1
    line = problems(formats.pages_of, str(path), Planes(1))
    assert "resolution 1 has other times or z than 0" in line


def test_bytes_in_the_other_order_are_the_same_numbers(tmp_path):
    array = image_of(16, 16)
    path = str(ome_zarr.write(tmp_path / "a.zarr", array.astype(">u2")))
    assert not formats.is_spread(Page(path))
    np.testing.assert_array_equal(formats.read_image(Page(path), 1)[..., 0], array)


@pytest.mark.parametrize("how", ["empty", "folder"])
def test_chunks_that_hold_nothing_are_no_fill_values(tmp_path, how):
    path = ome_zarr.write(tmp_path / "a.zarr", image_of(16, 16))
    chunk = path / "0/0.0"
    chunk.unlink()
    np.testing.assert_array_equal(formats.read_image(Page(str(path)), 1), 0)
    chunk.touch() if how == "empty" else chunk.mkdir()
    line = problems(formats.read_image, Page(str(path)), 1)
    assert line.startswith(str(path)) and "\n" not in line


def test_shards_that_hold_nothing_are_refused(tmp_path):
    path = ome_zarr.write(tmp_path / "a.zarr", image_of(64, 64), version="0.5")
    shutil.rmtree(path / "0")
    group = zarr.open_group(str(path))
    how = {"shape": (64, 64), "chunks": (8, 8), "shards": (32, 32), "dtype": "u2"}
    group.create_array("0", **how)[...] = 7
    np.testing.assert_array_equal(formats.read_image(Page(str(path)), 1), 7)
    (path / "0/c/0/1").write_bytes(b"")
    line = problems(formats.read_image, Page(str(path)), 1)
    assert "0/c/0/1: is empty" in line


@pytest.mark.parametrize(
    "content", ['{"labels": null}', '{"labels": "nuclei"}', "[1]", '{"a', "{}"]
)
def test_broken_metadata_of_labels_are_named(tmp_path, content):
    path = ome_zarr.write(tmp_path / "a.zarr", image_of(16, 16))
    ome_zarr.add_labels(path, "nuclei", cells(16, 16))
    (path / "labels/.zattrs").write_text(content)
    line = problems(frames_of, own_images, tmp_path)
    assert str(path) in line or "no frames found" in line


BROKEN = (
    '"datasets": null',
    '"datasets": [{}]',
    '"datasets": ["0"]',
    '"datasets": [{"path": "7"}]',
    '"axes": null, "datasets": [{"path": "0"}]',
    '"axes": [{}, {}], "datasets": [{"path": "0"}]',
    '"axes": ["height", "width"], "datasets": [{"path": "0"}]',
    '"axes": [], "datasets": [{"path": "0"}]',
    '"datasets": [{"path": "0"}]',
    '"axes": ["y", "x"], "datasets": [{"path": "0", "coordinateTransformations": '
    '[{"type": "scale"}]}]',
    '"axes": ["y", "x"], "datasets": [{"path": "0", "coordinateTransformations": '
    '[{"type": "scale", "scale": [1]}]}]',
)


@pytest.mark.parametrize("content", BROKEN)
def test_broken_metadata_are_named(tmp_path, content):
    path = ome_zarr.write(tmp_path / "a.zarr", image_of(16, 16))
    (path / ".zattrs").write_text(f'{{"multiscales": [{{{content}}}]}}')
    line = problems(formats.header_of, Page(str(path)))
    assert "its OME-Zarr metadata are broken" in line or "its axes are" in line
    assert "h, e, i" not in line and "\n" not in line


def test_upper_case_and_labels_named_like_files_are_read(tmp_path):
    path = ome_zarr.write(tmp_path / "A.ZARR", image_of(70, 90))
    ome_zarr.add_labels(path, "cells.tif", cells())
    data, [frame] = frames_of(own_images, tmp_path, labels="instance")
    np.testing.assert_array_equal(truth_of(data, frame).instances, cells())
