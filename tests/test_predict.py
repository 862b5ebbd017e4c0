"""predict: formats, stacks, reruns, broken files, several devices."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import tensorflow as tf
import tifffile
from google.cloud import storage

from preprocess.cli import main
from tests.cloud import gcs
from trainer.main import COMMANDS
from trainer.predict import job as predict_job
from trainer.predict.pipeline import Pipeline

NOTES = {"predict.json", ".predict-images.jsonl"}  # in every folder of outputs


@pytest.fixture(scope="module")
def model(trained, tmp_path_factory):
    output = tmp_path_factory.mktemp("exported") / "model"
    given = [f"--workdir={trained}", f"--output={output}", "--onnx", "--tile=108"]
    assert main(COMMANDS["export"], given) == 0
    return output


@pytest.fixture
def images(cells, tmp_path):
    """A folder of eight frames t000.tif to t007.tif, 128 px."""
    folder = tmp_path / "in"
    shutil.copytree(cells / "01", folder)
    return folder


@pytest.fixture
def predict(model, tmp_path):
    def run(source, *more, output="out"):
        given = f"--model={model}", f"--input={source}", f"--output={tmp_path / output}"
        return main(COMMANDS["predict"], [*given, *more])

    return run


@pytest.fixture
def whole(model):
    """The SavedModel itself, on one array of intensities [H, W]."""
    loaded = tf.saved_model.load(str(model / "1"))
    segment = loaded.signatures["serving_default"]

    def run(image):
        batch = tf.constant(image[None, ..., None], tf.float32)
        result = segment(image=batch)
        return {name: value[0].numpy() for name, value in result.items()}

    run.keep = loaded
    return run


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
        np.testing.assert_array_equal(exact, expected["probabilities"])
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
    read_image = predict_job.read_image

    def broken(page, channels):
        if page.number == 2:
            raise predict_job.UserError(f"{page}: cannot be read")
        return read_image(page, channels)

    monkeypatch.setattr(predict_job, "read_image", broken)
    assert predict(em / "train-volume.tif", "--format=isbi") == 2
    said = capfd.readouterr().err
    assert "train-volume.tif: not written, for want of" in said
    assert "train-volume.tif (page 2): cannot be read" in said
    assert os.listdir(tmp_path / "out") == ["predict.json"]
    monkeypatch.setattr(predict_job, "read_image", read_image)
    assert predict(em / "train-volume.tif", "--format=isbi") == 0


@pytest.mark.slow
def test_a_rerun_makes_only_what_is_missing_or_older(predict, images, tmp_path, capsys):
    assert predict(images) == 0
    out = tmp_path / "out"
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    capsys.readouterr()
    assert predict(images) == 0
    assert "0 images segmented, 8 were there" in capsys.readouterr().out
    assert before == {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    (out / "t001_mask.png").unlink()
    later = time.time() + 60
    os.utime(images / "t005.tif", (later, later))
    assert predict(images) == 0
    assert "2 images segmented, 6 were there" in capsys.readouterr().out
    after = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    changed = {name for name in before if before[name] != after[name]}
    assert {n.split("_")[0] for n in changed - NOTES} == {"t001", "t005"}


@pytest.mark.slow
def test_an_image_replaced_by_an_older_one_is_segmented_again(
    predict, images, tmp_path, capsys
):
    """As by `cp -p`, or after the clock was set back: times do not rise for ever."""
    assert predict(images) == 0
    before = (tmp_path / "out/t001_mask.png").read_bytes()
    then = time.time() - 3600
    os.utime(images / "t004.tif", (then, then))
    os.replace(images / "t004.tif", images / "t001.tif")
    for made in (1, 0):
        capsys.readouterr()
        assert predict(images) == 0
        assert f"{made} images segmented" in capsys.readouterr().out
    after = (tmp_path / "out/t001_mask.png").read_bytes()
    assert after == (tmp_path / "out/t004_mask.png").read_bytes() != before
    (tmp_path / "out/.predict-images.jsonl").unlink()  # as by an older version
    future = time.time() + 3600
    os.utime(images / "t001.tif", (future, future))
    assert predict(images) == 0
    assert "1 images segmented, 6 were there" in capsys.readouterr().out


@pytest.mark.slow
def test_images_of_one_name_in_two_folders_are_not_mixed(
    predict, images, tmp_path, capfd
):
    """Equal times, too: as of archives that were made to be the same each time."""
    other = tmp_path / "other"
    shutil.copytree(images, other)
    os.replace(other / "t005.tif", other / "t001.tif")
    then = time.time() - 3600
    for path in (*images.iterdir(), *other.iterdir()):
        os.utime(path, (then, then))
    assert predict(images) == 0
    before = (tmp_path / "out/t001_mask.png").read_bytes()
    capfd.readouterr()
    assert predict(other) == 2
    lines = [x for x in capfd.readouterr().err.splitlines() if "predict: " in x]
    assert f"t001.tif: {tmp_path / 'out'} has outputs of that name of {images}" in (
        "".join(lines)
    )
    assert (tmp_path / "out/t001_mask.png").read_bytes() == before
    shutil.rmtree(other)
    images.rename(other)  # moved: the same images
    capfd.readouterr()
    assert predict(other) == 0
    assert "0 images segmented" in capfd.readouterr().out


@pytest.mark.slow
def test_some_overwritten_by_another_setting_leave_none_of_the_old(
    predict, images, tmp_path, capsys
):
    assert predict(images) == 0
    assert predict(images / "t001.tif", "--tta", "--overwrite") == 0
    capsys.readouterr()
    assert predict(images, "--tta") == 0
    assert "7 images segmented, 1 were there" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("line", ["5", "null", '[["x"], 1]', "[" * 10**5, '["a", 1]'])
def test_a_strange_note_of_what_was_seen_is_passed_over(
    predict, images, tmp_path, line
):
    assert predict(images / "t001.tif") == 0
    note = tmp_path / "out/.predict-images.jsonl"
    note.write_text(f"{line}\n{note.read_text()}")
    assert predict(images / "t001.tif") == 0


@pytest.mark.slow
def test_outputs_of_other_settings_are_not_mixed(predict, images, tmp_path, capfd):
    assert predict(images) == 0
    assert predict(images, "--tta") == 2
    [line] = [x for x in capfd.readouterr().err.splitlines() if "predict: " in x]
    assert "holds outputs made otherwise (tta" in line and "--overwrite" in line
    assert predict(images, "--tta", "--overwrite") == 0
    assert json.loads((tmp_path / "out/predict.json").read_text())["tta"] is True


@pytest.mark.slow
def test_a_broken_file_stops_nothing_and_is_told_of(predict, images, tmp_path, capfd):
    (images / "t003.tif").write_bytes(b"II*\0broken")
    (images / "u.png").write_text("hello")
    shutil.copy(images / "t000.tif", images / "t001.tiff")
    assert predict(images) == 2
    lines = [
        x for x in capfd.readouterr().err.splitlines() if x.startswith("predict: ")
    ]
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
        "from preprocess import cli\n"
        "from trainer.main import COMMANDS\n"
        f"given = ['--model={model}', '--input={images}', '--output={tmp_path}/o']\n"
        "sys.exit(cli.main(COMMANDS['predict'], [*given, '--runtime=onnx']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "o").glob("*_mask.png"))) == 8


def test_onnx_that_was_not_exported_is_said(model, images, tmp_path, capfd):
    shutil.copytree(model / "1", tmp_path / "m")
    (tmp_path / "m/assets.extra/tile.onnx").unlink()
    given = f"--model={tmp_path}/m", f"--input={images}", f"--output={tmp_path}/o"
    assert main(COMMANDS["predict"], [*given, "--runtime=onnx"]) == 2
    assert "tile.onnx: missing; export with --onnx" in capfd.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_from_one_bucket_prefix_to_another(model, images, predict, tmp_path):
    """In a process of its own: Beam keeps the store's address for good."""
    environment = {
        **os.environ,
        "GOOGLE_CLOUD_PROJECT": "test",
        "NO_GCE_CHECK": "true",  # or it looks for credentials for half a minute
    }
    command = [sys.executable, "-m", "trainer.main", "predict", f"--model={model}"]
    where = f"gs://{gcs.BUCKET}"
    command += [f"--input={where}/in/", f"--output={where}/out", "--runtime=onnx"]
    with gcs.bucket() as front, pytest.MonkeyPatch.context() as patch:
        environment["STORAGE_EMULATOR_HOST"] = front.address
        patch.setenv("STORAGE_EMULATOR_HOST", front.address)
        bucket = storage.Client(project="test").bucket(gcs.BUCKET)
        for path in images.glob("t00[0-2].tif"):
            bucket.blob(f"in/{path.name}").upload_from_filename(path)
        done = subprocess.run(command, env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        found = {
            name: bucket.blob(f"out/{name}").download_as_bytes()
            for name in ("t000_mask.png", "t001_mask.png", "t002_mask.png")
        }
    assert predict(images, "--runtime=onnx") == 0
    for name, content in found.items():
        assert content == (tmp_path / "out" / name).read_bytes()


@pytest.mark.slow
def test_several_devices_share_the_images(model, images, predict, tmp_path):
    """In a process of its own, where the processor can still be split."""
    command = [sys.executable, "-m", "trainer.main", "predict", "--devices=2"]
    given = f"--model={model}", f"--input={images}", f"--output={tmp_path}/two"
    done = subprocess.run([*command, *given], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert predict(images) == 0
    for index in range(8):
        name = f"t{index:03d}_mask.png"
        assert (tmp_path / "two" / name).read_bytes() == (
            tmp_path / "out" / name
        ).read_bytes()


@pytest.mark.slow
def test_a_model_per_device_computes_there(model, images):
    """Two logical processors of this process: constants and results lie on each."""
    from trainer.export import layout
    from trainer.predict.runtimes import TensorFlowRuntime

    about = layout.read_about(str(model / "1"))
    for index in (0, 1):
        runtime = TensorFlowRuntime(str(model / "1"), about, device=f"/cpu:{index}")
        with tf.device(f"/cpu:{index}"):
            batch = tf.zeros([1, 30, 30, 1])
            result = runtime.function(image=batch)["classes"]
        assert result.device.endswith(f"CPU:{index}")


def test_the_pipeline_shares_items_and_bounds_what_waits():
    import threading

    reading, most, lock = [0], [0], threading.Lock()
    done = {0: [], 1: []}

    def read(item):
        with lock:
            reading[0] += 1
            most[0] = max(most[0], reading[0])
        return item * 2

    def worker(number):
        def work(content):
            time.sleep(0.002 * (1 + 4 * number))
            done[number].append(content)
            return content + 1

        return work

    def write(item, content, result):
        with lock:
            reading[0] -= 1
        assert (content, result) == (2 * item, 2 * item + 1)
        if item == 50:
            raise ValueError(item)

    pipeline = Pipeline(
        range(200), read=read, workers=[worker(0), worker(1)], write=write
    )
    ended = dict(pipeline.run())
    assert sorted(ended) == list(range(200))
    assert [item for item, error in ended.items() if error] == [50]
    assert len(done[0]) > len(done[1]) > 0 and len(done[0]) + len(done[1]) == 200
    assert most[0] <= 2 * 3 + 2


def test_the_pipeline_stops_where_nobody_listens():
    read = []
    pipeline = Pipeline(
        range(1000),
        read=lambda item: read.append(item),
        workers=[lambda content: time.sleep(0.001)],
        write=lambda *_: None,
    )
    running = pipeline.run()
    next(running)
    running.close()
    assert len(read) < 20


def test_outputs_that_would_overwrite_each_other_are_told_of(predict, tmp_path, capfd):
    (tmp_path / "in").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (2, 30, 30), np.uint8)
    tifffile.imwrite(tmp_path / "in/a.tif", noise, photometric="minisblack")
    tifffile.imwrite(tmp_path / "in/a-z001.tif", noise[0])
    assert predict(tmp_path / "in") == 2
    assert "its outputs would overwrite those of" in capfd.readouterr().err
    assert len(list((tmp_path / "out").glob("*_mask.png"))) == 2


def test_many_images_behind_one_header_are_refused(predict, tmp_path, capfd):
    noise = np.random.default_rng(0).integers(0, 256, (6, 30, 30), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", noise, imagej=True, truncate=True)
    assert predict(tmp_path / "a.tif") == 2
    assert "a.tif: 6 images behind one header" in capfd.readouterr().err
    tifffile.imwrite(tmp_path / "b.tif", noise, imagej=True)
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
def test_an_overwrite_that_is_stopped_leaves_no_old_outputs(
    predict, images, tmp_path, monkeypatch
):
    assert predict(images) == 0
    read_image = predict_job.read_image

    def stopping(page, channels):
        if "t004" in page.path:
            raise KeyboardInterrupt
        return read_image(page, channels)

    monkeypatch.setattr(predict_job, "read_image", stopping)
    assert predict(images, "--overwrite", "--tta") == 130
    monkeypatch.setattr(predict_job, "read_image", read_image)
    record = json.loads((tmp_path / "out/predict.json").read_text())
    assert record["tta"] and len(list((tmp_path / "out").glob("*_mask.png"))) < 8
    assert predict(images, "--tta") == 0
    assert predict(images, "--tta", output="afresh") == 0
    for index in range(8):
        name = f"t{index:03d}_mask.png"
        ours, afresh = (tmp_path / folder / name for folder in ("out", "afresh"))
        assert ours.read_bytes() == afresh.read_bytes()


def test_two_at_once_in_one_folder_are_refused(predict, images, tmp_path, capfd):
    with predict_job.locks.exclusive(str(tmp_path / "out")):
        assert predict(images) == 2
    assert "another job is writing there" in capfd.readouterr().err


def test_what_a_killed_run_left_is_removed(predict, images, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.unfinished-1234-t000_mask.png").write_text("half")
    assert predict(images) == 0
    assert not list((tmp_path / "out").glob(".unfinished*"))


@pytest.fixture(scope="module")
def by_data_set(trained, tmp_path_factory):
    """A model that normalises by its data set, exported with ONNX."""
    folder = tmp_path_factory.mktemp("by data set")
    shutil.copytree(trained, folder / "run")
    info = json.loads((folder / "run/dataset_info.json").read_text())
    info["normalization"] = {"mean": [90.0], "std": [25.0]}
    (folder / "run/dataset_info.json").write_text(json.dumps(info))
    (folder / "run/SHA256SUMS").unlink()  # the change is meant
    given = [f"--workdir={folder}/run", f"--output={folder}/model", "--onnx"]
    assert main(COMMANDS["export"], [*given, "--weights=variables"]) == 0
    return folder / "model"


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["tensorflow", "onnx"])
def test_normalisation_by_the_data_set_in_both_runtimes(
    by_data_set, model, images, tmp_path, runtime
):
    given = f"--model={by_data_set}", f"--input={images / 't000.tif'}"
    more = f"--runtime={runtime}", "--probabilities=npy", f"--output={tmp_path}/o"
    assert main(COMMANDS["predict"], [*given, *more]) == 0
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
    given = f"--model={by_data_set}", f"--input={tmp_path / 'f.tif'}"
    assert main(COMMANDS["predict"], [*given, f"--output={tmp_path}/o"]) == 2
    assert "f.tif: neither 8 nor 16 bit unsigned" in capfd.readouterr().err
    assert predict(tmp_path / "f.tif") == 0  # normalised by its own


MISTAKES = [
    (["--runtime=onnx", "--devices=2"], "--devices is TensorFlow's"),
    (["--format=tiff"], "one of <png|ctc|isbi>"),
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
