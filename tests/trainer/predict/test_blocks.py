"""Images segmented by blocks come out as in one piece; killed and shared runs too."""

import csv
import json
import pathlib
import signal
import subprocess
import time
import zipfile

import cv2
import numpy as np
import pytest
import tifffile
import zarr

from tests.cloud import dataflow, stores
from tests.commands import ROOT, module, process, run, started
from tests.dataset import ome_zarr
from tests.dataset.layouts import problems
from tests.trainer.inference.test_blockwise import assert_same_objects
from trainer.inference.instances import InstanceRules, classes_of, instances_of
from trainer.predict import object_table, outlines
from trainer.predict.blocks import results
from trainer.predict.blocks.pyramids import Pyramid
from trainer.predict.blocks.scratch import Scratch
from trainer.predict.blocks.windowed_image import WindowedImage
from trainer.predict.inputs import Job, find_jobs
from unet_tfrecords.dataset.images.pages import Page
from unet_tfrecords.dataset.pictures import overlay

OTHER = ROOT / ".engines/ome-zarr/bin/python"  # see .ci/engines
TABLE = "slide_objects.csv"
ALL = "--instances", "--table", "--geojson", "--rois"
BLOCKS = "--format=ome-tiff", "--block_px=64"


def slide_of(cells) -> np.ndarray:
    """Eight frames side by side: 250 x 500 px, of no block's multiple."""
    frames = [tifffile.imread(path) for path in sorted((cells / "01").glob("*.tif"))]
    rows = [np.concatenate(frames[n : n + 4], axis=1) for n in (0, 4)]
    return np.concatenate(rows)[:250, :500]


@pytest.fixture
def slide(cells, tmp_path):
    path = tmp_path / "slides/slide.tif"
    path.parent.mkdir()
    tifffile.imwrite(path, slide_of(cells), tile=(64, 64), compression="zlib")
    return path


def rows_of(content: bytes) -> list[list[float]]:
    """A table's rows without names and numbers of objects, in any order."""
    _, *rows = csv.reader(content.decode().splitlines())
    return sorted([float(value or 0) for value in row[2:]] for row in rows)


def geometries_of(content: bytes) -> list[str]:
    features = json.loads(content)["features"]
    return sorted(json.dumps(feature["geometry"]) for feature in features)


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--tta",), ("--runtime=onnx",)])
def test_blocks_give_the_outputs_of_the_whole(predict, slide, tmp_path, more):
    """The network's are the whole's; objects are those of its outputs in one piece."""
    rules = InstanceRules(threshold=0.55, core_threshold=0.65, min_size_px=9)
    flags = [f"--{name}={getattr(rules, name)}" for name in rules._fields[:2]]
    flags += ["--min_size_px=9", "--probabilities=tiff", *ALL, *more]
    assert predict(slide, *flags, output="whole") == 0
    assert predict(slide, *flags, *BLOCKS) == 0
    whole, blocks = tmp_path / "whole", tmp_path / "out"
    steps, expected = (
        tifffile.imread(folder / "slide_probabilities.tif")
        for folder in (blocks, whole)
    )
    assert steps.dtype == np.uint16
    np.testing.assert_allclose(steps.astype(int), expected.astype(int), atol=1)
    probabilities = np.moveaxis(steps, 0, -1) / np.float32(65535)
    instances = instances_of(probabilities, rules)
    assert instances.max() > 40
    found = tifffile.imread(blocks / "slide_instances.tif")
    assert found.dtype == np.uint16
    assert_same_objects(found, instances)
    mask = classes_of(probabilities, rules.threshold)
    np.testing.assert_array_equal(tifffile.imread(blocks / "slide_mask.tif"), mask)
    image = tifffile.imread(slide)[..., None]
    job = Job(Page(str(slide)), "slide", "slide", 1, 0.0)
    table = object_table.table_of(
        job, object_table.measured(found, image, probabilities)
    )
    rows = [rows_of(each) for each in (blocks.joinpath(TABLE).read_bytes(), table)]
    np.testing.assert_allclose(*rows, atol=1.1e-4, rtol=1e-5)
    geojson = b"".join(outlines.geojson(outlines.outlines(found)))
    written = (blocks / "slide_objects.geojson").read_bytes()
    assert geometries_of(written) == geometries_of(geojson)
    with zipfile.ZipFile(blocks / "slide_rois.zip") as rois:
        numbers = sorted(int(name.removesuffix(".roi")) for name in rois.namelist())
    assert numbers == list(range(1, instances.max() + 1))
    picture = overlay(image, mask, found.astype(np.int32))
    np.testing.assert_array_equal(
        read(blocks / "slide_overlay.png"), picture[..., ::-1]
    )
    assert not list(blocks.glob(".*"))  # nothing is left of the work


@pytest.mark.slow
@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("inside", [False, True])
def test_labels_are_ome_zarr_with_the_images_scale(
    predict, cells, tmp_path, capsys, version, inside
):
    image = slide_of(cells)
    path = tmp_path / "in/slide.zarr"
    ome_zarr.write(path, image[None, None], "tcyx", version=version, pixel_um=0.5)
    where = ("--into_image",) if inside else ()
    flags = "--instances", "--format=ome-zarr", "--block_px=128", *where
    assert predict(path, *flags) == 0
    assert predict(path, "--instances", "--format=ome-tiff", output="tiff") == 0
    expected = tifffile.imread(tmp_path / "tiff/slide_instances.tif")
    folder = tmp_path / "out/slide_instances.zarr"
    if inside:
        folder = path / "labels/unet_instances"
        labels = zarr.open_group(str(path / "labels"), mode="r").attrs.asdict()
        listed = labels.get("ome", labels)["labels"]
        assert listed == ["unet_mask", "unet_instances"]
    group = zarr.open_group(str(folder), mode="r")
    about = group.attrs.asdict()
    about = about.get("ome", about)
    [image_of] = about["multiscales"]
    assert [axis["name"] for axis in image_of["axes"]] == ["t", "y", "x"][not inside :]
    [scale] = image_of["datasets"][0]["coordinateTransformations"]
    assert scale["scale"][-2:] == [0.5, 0.5]
    assert image_of["axes"][-1]["unit"] == "micrometer"
    assert ("source" in about["image-label"]) == inside
    found = np.asarray(group["0"])
    assert_same_objects(found.reshape(found.shape[-2:]), expected)
    capsys.readouterr()
    assert predict(path, *flags) == 0  # the labels inside have not made it another
    assert "0 images segmented, 1 were there" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_napari_and_ome_zarr_py_open_them(predict, cells, tmp_path, version):
    """Alone, and with the image that they are in; and models of the metadata agree."""
    if not (OTHER.parents[1] / "whole").exists():
        pytest.skip("no ome-zarr: .ci/engines fetches it")
    image = np.repeat(np.repeat(slide_of(cells), 3, axis=0), 3, axis=1)
    path = tmp_path / "in/slide.zarr"
    ome_zarr.write(path, image[None], "zyx", version=version, pixel_um=0.5)
    more = "--instances", "--format=ome-zarr"
    assert predict(path, *more) == 0
    assert predict(path, *more, "--into_image", output="inside") == 0
    apart = tmp_path / "out/slide_instances.zarr"
    code = str(pathlib.Path(__file__).parent / "opened_by_others.py")
    inside = path / "labels/unet_instances"
    told = process(OTHER, code, apart, path, inside, check=True).stdout
    lines = (line for line in told.splitlines() if line.startswith("{"))
    alone, whole, own = map(json.loads, lines)
    numbers = np.asarray(zarr.open_group(str(apart), mode="r")["0"]).astype(np.int64)
    [layer] = alone["layers"]
    assert layer["kind"] == "labels" and layer["scale"] == [0.5, 0.5]
    assert layer["shapes"] == [[750, 1500], [375, 750]]
    assert layer["sums"] == [numbers.sum(), numbers[::2, ::2].sum()]
    assert alone["nodes"] and alone["model"] == own["model"] == "ImageLabel"
    kinds = {each["name"].rpartition("/")[2]: each for each in whole["layers"]}
    seen = kinds["unet_instances"]
    assert seen["kind"] == "labels" and seen["scale"] == [1.0, 0.5, 0.5]
    assert seen["shapes"][0] == [1, 750, 1500]
    assert seen["sums"] == layer["sums"]
    assert kinds["unet_mask"]["kind"] == "labels"
    assert whole["layers"][0]["kind"] == "image"


def test_smaller_resolutions_keep_numbers(tmp_path):
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 9e5, (2500, 1300)).astype(np.uint32)
    pyramid = Pyramid(str(tmp_path / "a.zarr"), whole.shape, np.uint32, 256)
    assert pyramid.sizes == [(2500, 1300), (1250, 650), (625, 325)]
    grid = pyramid.grid(0, 512)
    for number in range(grid.rows * grid.columns):
        box = grid.box(number)
        pyramid.write(box, whole[box[0] : box[2], box[1] : box[3]])
    for level in (1, 2):
        grid = pyramid.grid(level, 512)
        for number in range(grid.rows * grid.columns):
            pyramid.reduce(level, grid.box(number))
    path = tmp_path / "a.tif"
    pyramid.write_tiff(str(path), "a", (0.25, 0.5), 256)
    with tifffile.TiffFile(path) as tiff:
        [series] = tiff.series
        assert tiff.is_ome and 'PhysicalSizeX="0.5"' in tiff.ome_metadata
        assert tiff.pages[0].is_tiled and len(series.levels) == 3
        for level, found in enumerate(series.levels):
            step = 2**level
            np.testing.assert_array_equal(found.asarray(), whole[::step, ::step])
    before = path.read_bytes()
    pyramid.write_tiff(str(path), "a", (0.25, 0.5), 256)
    assert path.read_bytes() == before


@pytest.mark.slow
def test_a_killed_run_goes_on_at_the_block_where_it_stopped(model, slide, tmp_path):
    where = {"model": model, "input": slide, "output": tmp_path / "out"}
    arguments = module("predict", *ALL, *BLOCKS, **where)
    scratch = tmp_path / "out/.slide.blocks"
    killed = 0
    for step in ("segmenting", "joining", "measuring"):
        process = started(*arguments, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 100
        while time.monotonic() < end and process.poll() is None:
            if len(list(scratch.glob(f"*/{step}/0*"))) > 2:
                process.send_signal(signal.SIGKILL)
                killed += 1
            time.sleep(0.002)
        process.wait()
        process.stdout.close()
        assert not list((tmp_path / "out").glob("slide*"))  # nothing half-written
    assert killed
    done = {p: p.stat().st_mtime_ns for p in scratch.glob("*/segmenting/0*")}
    assert done
    assert run("predict", *ALL, *BLOCKS, **where) == 0
    where["output"] = tmp_path / "at-once"
    assert run("predict", *ALL, *BLOCKS, **where) == 0
    for path in (tmp_path / "at-once").glob("slide*"):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("step", ["preparing", "writing", "files", "record"])
def test_a_run_may_end_after_any_step(predict, slide, tmp_path, monkeypatch, step):
    """Whether outputs are there by then or not, and where older ones were."""
    flags = "--instances", "--table", "--format=ome-zarr", "--block_px=128"
    array = tifffile.imread(slide)
    tifffile.imwrite(slide, array[:200, :300].T)
    assert predict(slide, *flags) == 0  # of another image, that had this name
    tifffile.imwrite(slide, array)
    each, remove = Scratch.each, Scratch.remove

    def stopping(self, name, *args, **named):
        each(self, name, *args, **named)
        if name == step:
            raise KeyboardInterrupt

    def stopped(self):
        if list(pathlib.Path(self.folder).glob("*/files")):
            (tmp_path / "out" / TABLE).unlink()  # by somebody, meanwhile
            raise KeyboardInterrupt  # all is written, and noted
        remove(self)

    with monkeypatch.context() as patch:
        if step == "record":
            patch.setattr(Scratch, "remove", stopped)
        else:
            patch.setattr(Scratch, "each", stopping)
        assert predict(slide, *flags) == 130
    assert predict(slide, *flags) == 0
    assert predict(slide, *flags, output="expected") == 0
    for kind in ("mask", "instances"):
        found, expected = (
            zarr.open_group(str(tmp_path / to / f"slide_{kind}.zarr"), mode="r")
            for to in ("out", "expected")
        )
        np.testing.assert_array_equal(found["0"][...], expected["0"][...])
        assert found.attrs.asdict() == expected.attrs.asdict()
    tables = ((tmp_path / to / TABLE).read_bytes() for to in ("out", "expected"))
    assert next(tables) == next(tables)


@pytest.mark.slow
def test_processes_share_the_blocks_of_an_image(model, slide, tmp_path):
    where = {"model": model, "input": slide}
    alone = {**where, "output": tmp_path / "alone"}
    assert run("predict", *ALL, *BLOCKS, **alone) == 0
    where["output"] = tmp_path / "out"
    arguments = module("predict", *ALL, *BLOCKS, "--shared", **where)
    processes = [started(*arguments, stderr=subprocess.PIPE) for _ in range(3)]
    told = [process.communicate(timeout=200)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], [
        line for each in told for line in each.splitlines() if "predict:" in line
    ]
    for path in (tmp_path / "alone").glob("slide*"):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.slow
def test_processes_share_the_blocks_of_an_image_in_a_bucket(
    front, model, cells, tmp_path
):
    """From OME-Zarr in a bucket to labels inside of it: 250 x 500 px in 8 blocks."""
    login = {**dataflow.login(tmp_path), "STORAGE_EMULATOR_HOST": front.address}
    path = ome_zarr.write(tmp_path / "slide.zarr", slide_of(cells), chunks=128)
    front.upload(path, "in/slide.zarr")
    bucket = f"gs://{stores.BUCKET}"
    where = {"model": model, "input": f"{bucket}/in", "output": f"{bucket}/out"}
    flags = "--instances", "--table", "--format=ome-zarr", "--block_px=128"
    flags = *flags, "--into_image", "--runtime=onnx"
    arguments = module("predict", *flags, "--shared", **where)
    processes = [started(*arguments, env=login) for _ in range(2)]
    told = [process.communicate(timeout=250) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    alone = {**where, "input": path, "output": tmp_path / "out"}
    assert run("predict", *flags, **alone) == 0
    made = front.fetch("in/slide.zarr", tmp_path / "fetched") / "in/slide.zarr"
    for name in ("unet_mask", "unet_instances"):
        found, expected = (
            zarr.open_group(str(folder / "labels" / name), mode="r")
            for folder in (made, path)
        )
        assert found.attrs.asdict() == expected.attrs.asdict()
        np.testing.assert_array_equal(found["0"][...], expected["0"][...])
    table = front.get("out/slide_objects.csv")
    assert table == (tmp_path / "out/slide_objects.csv").read_bytes()
    assert not [name for name in front.names("out/") if ".blocks" in name]


@pytest.mark.slow
def test_a_larger_image_of_the_same_name_is_segmented_whole(predict, slide, tmp_path):
    """Also by processes that share it, of which none removes another's outputs."""
    flags = "--instances", "--table", "--format=ome-zarr", "--block_px=128", "--shared"
    array = tifffile.imread(slide)
    tifffile.imwrite(slide, array[:200, :300])
    assert predict(slide, *flags) == 0
    tifffile.imwrite(slide, array)
    assert predict(slide, *flags) == 0
    assert predict(slide, *flags[:-1], output="expected") == 0
    found, expected = (
        zarr.open_group(str(tmp_path / to / "slide_instances.zarr"), mode="r")["0"]
        for to in ("out", "expected")
    )
    np.testing.assert_array_equal(found[...], expected[...])


@pytest.mark.slow
def test_an_image_that_changes_meanwhile_is_reported(
    predict, slide, monkeypatch, capsys
):
    each, other = Scratch.each, tifffile.imread(slide)[::-1]

    def changing(self, name, *args, **named):
        each(self, name, *args, **named)
        if name == "reading":
            tifffile.imwrite(slide, other)

    with monkeypatch.context() as patch:
        patch.setattr(Scratch, "each", changing)
        assert predict(slide, *BLOCKS) == 2
    assert "slide.tif: has changed since this began; run it" in capsys.readouterr().err
    assert predict(slide, *BLOCKS) == 0


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_tables_have_the_intensities_of_the_file(predict, slide, tmp_path, dtype):
    """Not those that the network is given, which are spread over 16 bits."""
    array = tifffile.imread(slide).astype(dtype) / dtype(50) - dtype(1)
    tifffile.imwrite(slide, array.astype(dtype))
    assert predict(slide, *BLOCKS, "--table") == 0
    assert predict(slide, "--table", output="whole") == 0
    tables = [(tmp_path / to / TABLE).read_bytes() for to in ("out", "whole")]
    np.testing.assert_allclose(*map(rows_of, tables), rtol=1e-4, atol=2e-4)


@pytest.mark.slow
def test_labels_lie_where_the_image_lies(predict, cells, tmp_path):
    """In its unit or without one, and where its first pixel is."""
    for name, unit in (("a", "nanometer"), ("b", "")):
        path = tmp_path / f"in/{name}.zarr"
        ome_zarr.write(path, slide_of(cells), levels=2)
        about = json.loads((path / ".zattrs").read_text())
        [image] = about["multiscales"]
        for axis in image["axes"]:
            axis.pop("unit")
            axis |= {"unit": unit} if unit else {}
        for level, dataset in enumerate(image["datasets"]):
            dataset["coordinateTransformations"] = [
                {"type": "scale", "scale": [0.25 * 2**level] * 2},
                {"type": "translation", "translation": [100.0, 50.0]},
            ]
        (path / ".zattrs").write_text(json.dumps(about))
    flags = "--format=ome-zarr", "--block_px=128", "--into_image", "--level=1"
    assert predict(tmp_path / "in", *flags) == 0
    for name, unit in (("a", "nanometer"), ("b", None)):
        text = (tmp_path / f"in/{name}.zarr/labels/unet_mask/.zattrs").read_text()
        [image] = json.loads(text)["multiscales"]
        assert [axis.get("unit") for axis in image["axes"]] == [unit] * 2
        scale, translation = image["datasets"][0]["coordinateTransformations"]
        assert scale["scale"] == [0.5, 0.5]
        assert translation["translation"] == [100.0, 50.0]


@pytest.mark.slow
def test_outlines_for_imagej_have_an_end(predict, slide, monkeypatch, capsys):
    monkeypatch.setattr(outlines, "LARGEST_ROI_PX", 499)
    assert predict(slide, *BLOCKS, "--rois") == 2
    assert "ImageJ's outlines end at 499 px; leave out" in capsys.readouterr().err
    assert predict(slide, *BLOCKS, "--geojson") == 0


def test_neighbours_of_other_sizes_are_named(tmp_path):
    pages = []
    for name, height in (("a", 40), ("b", 50)):
        array = np.ones((height, 30), np.uint8)
        pages.append(Page(str(ome_zarr.write(tmp_path / f"{name}.zarr", array))))
    job = Job(pages[0], "a", "a", 1, 0.0, (pages[1],))
    assert "b.zarr: 50 x 30 px, but its neighbour" in problems(
        WindowedImage, job, 2, ()
    )


def test_labels_are_no_images(tmp_path, capsys):
    image = np.ones((20, 20), np.uint8)
    for name in ("a", "a_instances"):
        ome_zarr.write(tmp_path / f"in/{name}.zarr", image)
    path = tmp_path / "in/a_instances.zarr/.zattrs"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image-label": {}}))
    jobs, lines = find_jobs(str(tmp_path / "in"), str(tmp_path / "out"))
    assert [job.name for job in jobs] == ["a"] and not lines
    assert "1 OME-Zarrs are labels, and are left out" in capsys.readouterr().err


def test_what_is_no_question_of_blocks_is_refused(model, images, predict, capsys):
    for flags, told in (
        (("--shared",), "t000.tif: is segmented in one piece, which --shared"),
        (("--into_image",), "t000.tif: is segmented in one piece; --into_image"),
        (("--into_image", "--format=ome-zarr"), "--into_image is of OME-Zarr images"),
        (("--probabilities=npy", "--format=ome-tiff"), "--probabilities=npy can't"),
        (("--shared", "--overwrite"), "--overwrite: with --shared nobody can tell"),
        (("--block_px=100",), "--block_px=100: must be a multiple of 64"),
    ):
        assert predict(images, *flags) == 2
        assert told in capsys.readouterr().err, flags


@pytest.mark.parametrize(
    ("size", "block", "factor"),
    [((500, 900), 2048, 1), ((4096, 9000), 2048, 8), ((60_000, 60_000), 2048, 32)],
)
def test_pictures_to_look_at_are_of_some_thousand_pixels(size, block, factor):
    assert results.overview_factor(size, block) == factor
    image = np.arange(100 * 70 * 3, dtype=np.uint16).reshape(100, 70, 3)
    small = results.reduced(image, 8)
    assert small.shape == (13, 9, 3)
    expected = image[8:16, 16:24].mean((0, 1))
    np.testing.assert_allclose(small[1, 2], expected, atol=1)
