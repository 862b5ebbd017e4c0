"""predict: formats, stacks, reruns, broken files, several devices."""

import errno
import json
import os
import shutil

import cv2
import numpy as np
import pytest
import tensorflow as tf
import tifffile

from tests.cloud import dataflow, stores
from tests.commands import PYTHON, lines_of, module, process, run
from tests.dataset import ome_zarr
from tests.trainer.predict.conftest import NOTES
from trainer.predict import job as predict_job


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


@pytest.mark.slow
def test_masks_and_probabilities_are_the_models(predict, images, whole, tmp_path):
    assert predict(images, "--probabilities=npy") == 0
    assert predict(images, "--probabilities=tiff", output="tiff") == 0
    for index in range(8):
        name = f"t{index:03d}"
        expected = whole(tifffile.imread(images / f"{name}.tif"))
        np.testing.assert_array_equal(
            read(tmp_path / f"out/{name}_mask.png"), expected["classes"]
        )
        exact = np.load(tmp_path / f"out/{name}_probabilities.npy")
        assert exact.dtype == np.float32
        np.testing.assert_allclose(exact, expected["probabilities"], atol=1e-6)
        coarse = tifffile.imread(tmp_path / f"tiff/{name}_probabilities.tif")
        assert coarse.dtype == np.uint16 and coarse.shape == (2, 128, 128)
        np.testing.assert_allclose(
            coarse.transpose(1, 2, 0) / 65535, exact, atol=0.5001 / 65535
        )


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_bits_and_formats_of_images(predict, whole, tmp_path, suffix, dtype):
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (50, 77), dtype)
    (tmp_path / "in").mkdir()
    path = tmp_path / f"in/a.{suffix}"
    cv2.imwrite(str(path), image) if suffix == "png" else tifffile.imwrite(path, image)
    assert predict(tmp_path / "in") == 0
    mask = read(tmp_path / "out/a_mask.png")
    np.testing.assert_array_equal(mask, whole(image)["classes"])


@pytest.mark.slow
def test_challenge_format(predict, images, tmp_path):
    assert predict(images, "--format=ctc", output="01_RES") == 0
    names = {f"mask{i:03d}.tif" for i in range(8)} | NOTES
    assert set(os.listdir(tmp_path / "01_RES")) == names
    assert predict(images, "--instances", output="png") == 0
    for index in range(8):
        mask = tifffile.imread(tmp_path / f"01_RES/mask{index:03d}.tif")
        assert mask.dtype == np.uint16 and mask.shape == (128, 128)
        ours = tifffile.imread(tmp_path / f"png/t{index:03d}_instances.tif")
        np.testing.assert_array_equal(mask, ours)


@pytest.mark.slow
def test_challenge_format_leaves_out_cells_at_the_edge(predict, images, tmp_path):
    """Those that its scores leave out; other formats have all cells."""
    many, field = ("--min_size_px=0",), ("--format=ctc", "--edge_px=60")
    assert predict(images, *many, *field, output="01_RES") == 0
    assert predict(images, *many, "--instances", output="png") == 0
    fewer = 0
    for index in range(8):
        mask = tifffile.imread(tmp_path / f"01_RES/mask{index:03d}.tif")
        every = tifffile.imread(tmp_path / f"png/t{index:03d}_instances.tif")
        inner = set(np.unique(every[60:-60, 60:-60]))
        expected = np.where(np.isin(every, list(inner)), every, 0)
        np.testing.assert_array_equal(mask, expected)
        fewer += (mask != every).any()
    assert fewer
    assert predict(images, field[1], output="other") == 2
    assert predict(images, field[0], "--edge_px=64", output="all") == 2
    assert not list((tmp_path / "all").glob("mask*"))


@pytest.mark.slow
def test_challenge_format_wants_the_challenges_names(predict, images, tmp_path, capfd):
    (images / "t003.tif").rename(images / "frame3.tif")
    assert predict(images, "--format=ctc") == 2
    assert "frame3.tif: the challenge's frames are tNNN.tif" in capfd.readouterr().err
    assert len(list((tmp_path / "out").glob("mask*.tif"))) == 7


@pytest.mark.slow
def test_isbi_format_is_one_stack_of_float32(predict, em, whole, tmp_path):
    stack = em / "train-volume.tif"
    assert predict(stack, "--format=isbi") == 0
    assert set(os.listdir(tmp_path / "out")) == {"train-volume.tif"} | NOTES
    with tifffile.TiffFile(tmp_path / "out/train-volume.tif") as tiff:
        assert len(tiff.pages) == 6 and tiff.pages[0].dtype == np.float32
        for page, image in zip(tiff.pages, tifffile.imread(stack), strict=True):
            expected = whole(image)["probabilities"][..., 1]
            np.testing.assert_array_equal(page.asarray(), expected)


@pytest.mark.slow
def test_a_stack_that_lacks_a_page_is_not_written(
    predict, em, tmp_path, monkeypatch, capfd
):
    read_images = predict_job.read_images

    def broken(pages, channels, **named):
        if pages[0].number == 2:
            raise predict_job.UserError(f"{pages[0]}: cannot be read")
        return read_images(pages, channels, **named)

    monkeypatch.setattr(predict_job, "read_images", broken)
    assert predict(em / "train-volume.tif", "--format=isbi") == 2
    said = capfd.readouterr().err
    assert "train-volume.tif: not written, for want of" in said
    assert "train-volume.tif (page 2): cannot be read" in said
    assert os.listdir(tmp_path / "out") == ["predict.json"]
    monkeypatch.setattr(predict_job, "read_images", read_images)
    assert predict(em / "train-volume.tif", "--format=isbi") == 0


@pytest.mark.slow
def test_a_broken_file_stops_nothing_and_is_told_of(predict, images, tmp_path, capfd):
    (images / "t003.tif").write_bytes(b"II*\0broken")
    (images / "u.png").write_text("hello")
    shutil.copy(images / "t000.tif", images / "t001.tiff")
    assert predict(images) == 2
    lines = lines_of(capfd, "predict")
    assert len(lines) == 3
    for name in ("t003.tif", "u.png", "t001.tiff: its outputs would overwrite"):
        assert [line for line in lines if name in line]
    assert len(list((tmp_path / "out").glob("*_mask.png"))) == 7
    assert not list((tmp_path / "out").glob(".unfinished*"))


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["tensorflow", "onnx"])
def test_runtimes_write_the_same_masks(predict, images, whole, tmp_path, runtime):
    given = f"--runtime={runtime}", "--probabilities=npy"
    assert predict(images / "t00[12].tif", *given, output=runtime) == 0
    for name in ("t001", "t002"):
        expected = whole(tifffile.imread(images / f"{name}.tif"))["probabilities"]
        found = np.load(tmp_path / f"{runtime}/{name}_probabilities.npy")
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_onnx_needs_no_tensorflow(model, images, tmp_path):
    code = (
        "import sys\n"
        "sys.modules['tensorflow'] = sys.modules['keras'] = None\n"
        "from unet_tfrecords.command import cli\n"
        "from trainer.main import COMMANDS\n"
        f"given = ['--model={model}', '--input={images}', '--output={tmp_path}/o']\n"
        "sys.exit(cli.main(COMMANDS['predict'], [*given, '--runtime=onnx']))"
    )
    done = process(PYTHON, "-c", code)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "o").glob("*_mask.png"))) == 8


def test_onnx_that_was_not_exported_is_said(model, images, tmp_path, capfd):
    shutil.copytree(model / "1", tmp_path / "m")
    (tmp_path / "m/assets.extra/tile.onnx").unlink()
    where = {"model": tmp_path / "m", "input": images, "output": tmp_path / "o"}
    assert run("predict", "--runtime=onnx", **where) == 2
    assert "tile.onnx: missing; export with --onnx" in capfd.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_from_one_bucket_prefix_to_another(front, model, images, predict, tmp_path):
    """In a process of its own: Beam keeps the store's address for good."""
    # Without a login it looks for one for half a minute.
    login = {**dataflow.login(tmp_path), "STORAGE_EMULATOR_HOST": front.address}
    for path in images.glob("t00[0-2].tif"):
        front.put(f"in/{path.name}", path.read_bytes())
    bucket = f"gs://{stores.BUCKET}"
    where = {"model": model, "input": f"{bucket}/in/", "output": f"{bucket}/out"}
    done = process(*module("predict", "--runtime=onnx", **where), env=login)
    assert done.returncode == 0, done.stderr
    assert predict(images, "--runtime=onnx") == 0
    for name in ("t000_mask.png", "t001_mask.png", "t002_mask.png"):
        assert front.get(f"out/{name}") == (tmp_path / "out" / name).read_bytes()


@pytest.mark.parametrize("source", ["in", "in/*/*.tif", "in/"])
def test_subfolders_are_kept(predict, images, tmp_path, source):
    """Two images of one name, and outputs below the images: those are not segmented."""
    for plate in ("p1", "p2/wells"):
        (images / plate).mkdir(parents=True)
        shutil.copy(images / "t000.tif", images / plate / "t001.tif")
    out = images / "p1/out"
    (out / "p1").mkdir(parents=True)
    (out / "p1/.unfinished-12345678-x.png").touch()
    for _ in range(2):
        assert predict(tmp_path / source, "--table", output="in/p1/out") == 0
    made = {str(p.relative_to(out)) for p in out.rglob("*_mask.png")}
    wells, first = "p2/wells/t001_mask.png", "p1/t001_mask.png"
    if source.endswith(".tif"):
        assert made == {first}
    else:
        assert made == {f"t00{i}_mask.png" for i in range(8)} | {first, wells}
    assert not list(out.rglob(".unfinished*"))
    assert "\np1/t001.tif," in (out / "objects.csv").read_text()
    assert predict(images / "p2", "--format=ctc", output="ctc") == 0
    assert (tmp_path / "ctc/wells/mask001.tif").exists()


def test_outputs_do_not_go_among_other_images(predict, images, tmp_path, capfd):
    (images / "more").mkdir()
    shutil.copy(images / "t000.tif", images / "more")
    assert predict(images, output="in/more") == 2
    assert "in/more: holds the images" in capfd.readouterr().err
    # Nor into the folder that is read, with or without a record of an earlier run.
    assert predict(images / "t000.tif") == 0
    assert predict(tmp_path / "out") == 2
    assert "out: holds the images" in capfd.readouterr().err


@pytest.mark.parametrize(
    "image, mask",
    [
        ("images/a.png", "masks/a.png"),
        ("a.png", "a_mask.png"),
        ("a/images/a.png", "a/masks/b.png"),
        ("01/t000.tif", "01_GT/SEG/man_seg000.tif"),
        ("train-volume.tif", "train-labels.tif"),
        ("a/images/a.png", "a/mask/mask_1.png"),
        ("imagesTs/a_0000.png", "labelsTs/a.png"),
        ("b/a.png", "b/a-Mask.tif"),
    ],
)
def test_masks_of_the_images_are_not_segmented(predict, tmp_path, capfd, image, mask):
    noise = np.random.default_rng(0).integers(0, 256, (30, 30), np.uint8)
    for name in (image, mask):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "in" / name), noise)
    assert predict(tmp_path / "in") == 0
    [made] = (tmp_path / "out").rglob("*_mask.png")
    assert str(made.relative_to(tmp_path / "out")) == f"{image[:-4]}_mask.png"
    assert "1 files are masks of images there" in capfd.readouterr().err


def test_channels_in_files_of_their_own_are_not_segmented(predict, tmp_path, capfd):
    """nnU-Net's; elsewhere such names are those of a video."""
    for folder in ("imagesTs", "video"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        for number in range(2):
            name = f"{tmp_path}/in/{folder}/a_000{number}.png"
            cv2.imwrite(name, np.eye(30, dtype=np.uint8))
    assert predict(tmp_path / "in") == 2
    said = capfd.readouterr().err
    assert said.count(": a channel in a file of its own is not read") == 2
    made = sorted((tmp_path / "out").rglob("*_mask.png"))
    assert [path.parent.name for path in made] == ["video", "video"]


def test_a_glob_without_a_folder_leaves_masks_out(predict, tmp_path, monkeypatch):
    for name in ("a.png", "a_mask.png"):
        cv2.imwrite(f"{tmp_path}/{name}", np.eye(30, dtype=np.uint8))
    monkeypatch.chdir(tmp_path)
    assert predict("*.png") == 0
    assert len(list((tmp_path / "out").rglob("*_mask.png"))) == 1


def test_outputs_that_would_overwrite_each_other_are_told_of(predict, tmp_path, capfd):
    (tmp_path / "in").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (2, 30, 30), np.uint8)
    tifffile.imwrite(tmp_path / "in/a.tif", noise, photometric="minisblack")
    tifffile.imwrite(tmp_path / "in/a-z001.tif", noise[0])
    # A stack of more pages with the name of another gives none of them.
    tifffile.imwrite(
        tmp_path / "in/a.tiff", np.tile(noise, (2, 1, 1)), photometric="minisblack"
    )
    assert predict(tmp_path / "in") == 2
    said = capfd.readouterr().err
    assert said.count("its outputs would overwrite those of") == 2
    assert len(list((tmp_path / "out").glob("*_mask.png"))) == 2


def test_many_images_behind_one_header_are_refused(predict, tmp_path, capfd):
    noise = np.random.default_rng(0).integers(0, 256, (6, 30, 30), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", noise, imagej=True, truncate=True)
    assert predict(tmp_path / "a.tif") == 2
    assert "a.tif: 6 images behind one header" in capfd.readouterr().err
    options = {"imagej": True, "metadata": {"axes": "ZYX"}}  # or it has channels
    tifffile.imwrite(tmp_path / "b.tif", noise, **options)
    assert predict(tmp_path / "b.tif") == 0
    assert len(list((tmp_path / "out").glob("*_mask.png"))) == 6


@pytest.mark.slow
def test_an_error_in_writing_one_image_stops_no_other(
    predict, images, tmp_path, monkeypatch, capfd
):
    write_bytes = predict_job.files.write_bytes

    def failing(number):
        def write(path, content):
            if "t003" in path:
                raise OSError(number, os.strerror(number), path)
            write_bytes(path, content)

        return write

    monkeypatch.setattr(predict_job.files, "write_bytes", failing(errno.ENAMETOOLONG))
    assert predict(images) == 2
    assert "t003.tif: " in capfd.readouterr().err
    assert len(list((tmp_path / "out").glob("*_mask.png"))) == 7
    monkeypatch.setattr(predict_job.files, "write_bytes", failing(errno.ENOSPC))
    assert predict(images) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("predict: ") and "No space left" in line


@pytest.mark.slow
def test_a_stack_that_cannot_be_written_stops_no_other(predict, em, tmp_path, capfd):
    folder = tmp_path / "stacks"
    folder.mkdir()
    for name in ("a", "b"):
        shutil.copy(em / "train-volume.tif", folder / f"{name}.tif")
    (tmp_path / "out/a.tif/in-the-way").mkdir(parents=True)
    assert predict(folder, "--format=isbi") == 2
    assert "a.tif: Is a directory" in capfd.readouterr().err
    assert (tmp_path / "out/b.tif").is_file()


@pytest.fixture(scope="module")
def by_data_set(trained, tmp_path_factory):
    """A model that normalises by its data set, exported with ONNX."""
    folder = tmp_path_factory.mktemp("by data set")
    shutil.copytree(trained, folder / "run")
    info = json.loads((folder / "run/dataset_info.json").read_text())
    info["normalization"] = {"mean": [90.0], "std": [25.0]}
    (folder / "run/dataset_info.json").write_text(json.dumps(info))
    (folder / "run/SHA256SUMS").unlink()  # the change is meant
    where = {"workdir": folder / "run", "output": folder / "model"}
    assert run("export", "--onnx", "--weights=variables", **where) == 0
    return folder / "model"


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["tensorflow", "onnx"])
def test_normalisation_by_the_data_set_in_both_runtimes(
    by_data_set, model, images, tmp_path, runtime
):
    more = f"--runtime={runtime}", "--probabilities=npy"
    where = {"input": images / "t000.tif", "output": tmp_path / "o"}
    assert run("predict", *more, model=by_data_set, **where) == 0
    found = np.load(tmp_path / "o/t000_probabilities.npy")
    # By hand: the same weights on (image - 90) / 25, through the other model's `tile`.
    image = tifffile.imread(images / "t000.tif").astype(np.float32)
    tile = tf.saved_model.load(str(model / "1")).signatures["tile"]
    part = tile(
        tile=tf.constant(image[None, :64, :60, None]),
        mean=tf.constant([[90.0]]),
        std=tf.constant([[25.0]]),
    )["probabilities"][0]
    np.testing.assert_allclose(found[20:44, 20:40], part, atol=1e-5)


@pytest.mark.slow
def test_spread_intensities_have_no_place_in_a_data_sets_scale(
    by_data_set, predict, images, tmp_path, capfd
):
    image = tifffile.imread(images / "t000.tif")
    tifffile.imwrite(tmp_path / "f.tif", image.astype(np.float32))
    where = {"input": tmp_path / "f.tif", "output": tmp_path / "o"}
    assert run("predict", model=by_data_set, **where) == 2
    assert "f.tif: neither 8 nor 16 bit unsigned" in capfd.readouterr().err
    assert predict(tmp_path / "f.tif") == 0  # normalised by its own


MISTAKES = [
    (["--runtime=onnx", "--devices=2"], "--devices is TensorFlow's"),
    (["--format=tiff"], "one of <png|ctc|isbi|ome-zarr|ome-tiff>"),
    (["--probabilities=png"], "one of <none|tiff|npy>"),
    (["--runtime=torch"], "one of <tensorflow|onnx>"),
    (["--min_size_px=-1"], "must be a number and not negative"),
    (["--threshold=1.5"], "from 0 to below 1"),
]


@pytest.mark.parametrize("more, message", MISTAKES)
def test_mistakes_are_one_line(predict, images, tmp_path, capfd, more, message):
    assert predict(images, *more) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("predict: ") and message in line
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_images_of_an_ome_zarr_are_segmented_as_those_of_a_stack(
    predict, images, tmp_path
):
    pages = np.stack([tifffile.imread(images / f"t{i:03d}.tif") for i in range(4)])
    (tmp_path / "stack").mkdir()
    tifffile.imwrite(tmp_path / "stack/a.tif", pages, photometric="minisblack")
    array = pages.reshape(2, 2, 128, 128)
    path = ome_zarr.write(tmp_path / "zarr/a.zarr", array, "tzyx", levels=2)
    flags = "--table", "--instances"
    assert predict(tmp_path / "stack", *flags, output="expected") == 0
    assert predict(path, *flags) == 0
    for name in (f"a-z{i:03d}_{what}" for i in range(4) for what in OUTPUTS):
        found, expected = (read(tmp_path / to / name) for to in ("out", "expected"))
        np.testing.assert_array_equal(found, expected)
    # A folder of them, and some of their images, continue there.
    chosen = "--times=1", "--slices=0"
    assert predict(tmp_path / "zarr", *flags, *chosen, output="some") == 0
    made = {path.name for path in (tmp_path / "some").iterdir()}
    assert made == {f"a-z002_{what}" for what in (*OUTPUTS, "objects.csv")} | {
        "objects.csv",
        *NOTES,
    }
    # The smaller resolution.
    assert predict(path, "--level=1", "--times=0", "--slices=0", output="half") == 0
    assert read(tmp_path / "half/a-z000_mask.png").shape == (64, 64)


OUTPUTS = ("mask.png", "overlay.png", "instances.tif")


def test_what_chooses_of_an_ome_zarr_is_checked(predict, images, capsys):
    assert predict(images, "--times=x") == 2
    assert "--times=x: whole numbers from 0" in capsys.readouterr().err
    assert predict(images, "--level=1") == 2
    assert "choose images of an OME-Zarr" in capsys.readouterr().err
