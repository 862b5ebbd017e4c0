"""The whole road as a user goes it: images in, masks out, by the commands alone."""

import json
import pathlib
import re
import shutil

import cv2
import numpy as np
import pytest
import tensorflow as tf
import tifffile

from preprocess import draw
from tests.commands import PYTHON, ROOT, process, refused, run
from tests.folders import lay
from trainer.main import COMMANDS
from unet_tfrecords.dataset import dataset_info
from unet_tfrecords.dataset.drawn_cells import draw_cells

TINY = (
    "--config.data.tile_size=92",  # px in, 4 out at depth 3
    "--config.data.augmentations=1",
    "--config.model.depth=3",
    "--config.train.steps=2",
    "--config.train.validate_every_steps=2",
)


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def go_the_road(config, source, out, images, *overrides):
    """All commands in turn; returns the scores."""
    settings = (f"--config={config}", *overrides)
    workdir, model, predictions = out / "train", out / "export", out / "predictions"
    assert run("preprocess", *settings, input=source, output=out / "data") == 0
    assert run("train", *settings, data=out / "data", workdir=workdir) == 0
    assert run("evaluate", workdir=workdir, input=source) == 0
    assert run("export", workdir=workdir, output=model) == 0
    assert (model / "1/saved_model.pb").exists()
    assert run("predict", model=model, input=images, output=predictions) == 0
    return json.loads((out / "train/evaluation-test.json").read_text())


def assert_pictures(folder, names, shape):
    for name in names:
        mask = cv2.imread(str(folder / f"{name}_mask.png"), cv2.IMREAD_UNCHANGED)
        overlay = cv2.imread(str(folder / f"{name}_overlay.png"), cv2.IMREAD_UNCHANGED)
        assert mask.shape == shape and mask.dtype == np.uint8 and mask.max() <= 1
        assert overlay.shape == (*shape, 3)


@pytest.mark.slow
def test_drawn_em(tmp_path):
    draw.write_em(str(tmp_path / "raw"), size=48, num_frames=4, seed=1)
    volume = tmp_path / "raw/train-volume.tif"
    config = "configs/isbi2012.py:smoke"
    scores = go_the_road(config, tmp_path / "raw", tmp_path, volume, *TINY)
    assert scores["num_frames"] == 1
    names = [f"train-volume-z{i:03d}" for i in range(4)]
    assert_pictures(tmp_path / "predictions", names, (48, 48))


@pytest.mark.slow
def test_own_folder_of_rgb_instances(tmp_path):
    frames = {
        f"plate {index}": (np.dstack([image // 2, 255 - image, image]), instances)
        for index, (image, instances) in enumerate(draw_cells(48, 4, 1))
    }
    lay(tmp_path / "raw", frames, "png")
    rgb = ("--config.model.channels=3", "--config.data.labels=instance", *TINY)
    config, images = "configs/folder.py:smoke", tmp_path / "raw/images"
    scores = go_the_road(config, tmp_path / "raw", tmp_path, images, *rgb)
    assert list(scores["frames"]) == ["raw/folder/plate 3"]
    names = [f"plate {i}" for i in range(4)]
    assert_pictures(tmp_path / "predictions", names, (48, 48))


@pytest.mark.slow
def test_a_selected_channel_gives_what_its_image_alone_gives(tmp_path):
    """Blue cells saved as RGB, as of DAPI: shards, scores, masks and tables."""
    noise = np.random.default_rng(2)
    grey = {str(i): pair for i, pair in enumerate(draw_cells(48, 4, 1))}
    others = noise.integers(0, 256, (2, 48, 48), np.uint8)
    blue = {name: (np.dstack([*others, x]), mask) for name, (x, mask) in grey.items()}
    lay(tmp_path / "grey/raw", grey, "png")
    lay(tmp_path / "blue/raw", blue, "png")
    scores = []
    for source, chosen in (("blue", ["--config.data.channels=(2,)"]), ("grey", [])):
        out = tmp_path / source
        settings = ("--config.data.labels=instance", *TINY, *chosen)
        images = out / "raw/images"
        scores += [
            go_the_road("configs/folder.py:smoke", out / "raw", out, images, *settings)
        ]
        where = {"model": out / "export", "input": images, "output": out / "t"}
        assert run("predict", "--table", "--min_size_px=0", **where) == 0
    assert scores[0]["frames"].keys() == scores[1]["frames"].keys()
    blue, grey = tmp_path / "blue", tmp_path / "grey"
    compared = [*grey.glob("data/*.tfrecord"), *grey.glob("predictions/*_mask.png")]
    for path in [*compared, *grey.glob("t/*.csv")]:
        other = blue / path.relative_to(grey)
        assert path.read_bytes() == other.read_bytes(), path
    assert len(compared) > 4
    model = tf.saved_model.load(str(blue / "export/1"))
    encoded = (blue / "raw/images/3.png").read_bytes()
    found = model.signatures["image_bytes"](image_bytes=tf.constant([encoded]))
    mask = cv2.imread(str(blue / "predictions/3_mask.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(found["classes"][0], mask)


@pytest.mark.long
@pytest.mark.parametrize(
    "name, folder, images, shape, count",
    [
        ("isbi2012", "isbi2012", "train-volume.tif", (512, 512), 5),
        ("dic_hela", "DIC-C2DH-HeLa", "01/t08*.tif", (512, 512), 12),
        ("phc_u373", "PhC-C2DH-U373", "01/t11*.tif", (520, 696), 12),
    ],
)
def test_real_images(real_data, tmp_path, name, folder, images, shape, count):
    source = real_data / folder
    config = f"configs/{name}.py:smoke"
    scores = go_the_road(config, source, tmp_path, source / images)
    assert scores["num_frames"] == count
    info = dataset_info.read_info(f"{tmp_path}/data")
    tiles = {split: content.num_tiles for split, content in info.splits.items()}
    frames = {s: content.num_frames for s, content in info.splits.items()}
    assert tiles == {split: 4 * number for split, number in frames.items()}
    assert frames["test"] == count
    masks = sorted((tmp_path / "predictions").glob("*_mask.png"))
    names = [path.name.removesuffix("_mask.png") for path in masks]
    assert len(names) == (20 if name == "isbi2012" else len(list(source.glob(images))))
    assert_pictures(tmp_path / "predictions", names, shape)


@pytest.fixture(scope="module")
def made(cells, tmp_path_factory):
    """A finished run on drawn cells, exported twice."""
    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        go_the_road("configs/synthetic.py:smoke", cells, out, cells / "01", *TINY)
        assert run("export", workdir=out / "train", output=out / "export") == 0
    return out


@pytest.mark.slow
def test_drawn_cells(made):
    names = [f"t{i:03d}" for i in range(8)]
    assert_pictures(made / "predictions", names, (128, 128))
    versions = sorted(path.name for path in (made / "export").iterdir())
    assert versions == ["1", "2"]
    extra = made / "export/2/assets.extra"
    assert json.loads((extra / "config.json").read_text())["model"]["depth"] == 3
    assert (extra / "model_card.md").exists()


@pytest.mark.slow
def test_evaluate_prints_what_the_json_holds(made, cells, capsys):
    assert run("evaluate", workdir=made / "train", input=cells) == 0
    table = capsys.readouterr().out
    scores = json.loads((made / "train/evaluation-test.json").read_text())["scores"]
    for name in ("mean_iou", "pixel_error"):
        assert f"{scores[name]:.4f}" in table
    for name, value in scores.items():
        assert value is None or f"{name}  {value:8.4f}" in table


@pytest.mark.slow
def test_evaluate_agrees_with_the_exported_model(made, cells):
    """The same frames through the SavedModel, counted here by hand."""
    model = tf.saved_model.load(str(made / "export/1")).signatures["serving_default"]
    result = json.loads((made / "train/evaluation-test.json").read_text())
    right = total = 0
    for name in ("t006", "t007"):
        image = tifffile.imread(cells / f"01/{name}.tif").astype(np.float32)
        truth = tifffile.imread(cells / f"01_GT/SEG/man_seg{name[1:]}.tif") > 0
        predicted = model(image=image[None, ..., None])["classes"][0].numpy()
        right += (predicted == truth).sum()
        total += truth.size
    assert result["scores"]["pixel_error"] == pytest.approx(1 - right / total)


@pytest.mark.slow
def test_evaluate_refuses_frames_it_was_trained_on(made, source, capsys):
    """Fewer frames move the blocks: a training frame would be scored as a test one."""
    for index in (5, 6, 7):
        (source / f"01/t{index:03d}.tif").unlink()
        (source / f"01_GT/SEG/man_seg{index:03d}.tif").unlink()
    assert run("evaluate", workdir=made / "train", input=source) == 2
    assert "t004.tif: was trained on" in capsys.readouterr().err


@pytest.mark.slow
def test_skipped_frames_are_skipped_all_the_way(source, tmp_path):
    for name in ("t001", "t007"):  # one to train on, one to test
        (source / f"01/{name}.tif").write_text("hello")
    settings = ("--config=configs/synthetic.py:smoke", *TINY)
    data, workdir = tmp_path / "data", tmp_path / "run"
    skipping = *settings, "--on_bad_frame=skip"
    assert run("preprocess", *skipping, input=source, output=data) == 0
    assert run("train", *settings, data=data, workdir=workdir) == 0
    assert run("evaluate", workdir=workdir, input=source) == 0
    result = json.loads((tmp_path / "run/evaluation-test.json").read_text())
    assert list(result["frames"]) == ["drawn-cells/01/t006"]


@pytest.mark.slow
def test_predict_goes_on_after_a_broken_file(made, cells, tmp_path, capfd):
    shutil.copytree(cells / "01", tmp_path / "in")
    (tmp_path / "in/t003.tif").write_text("hello")
    folders = {"input": tmp_path / "in", "output": tmp_path / "out"}
    assert run("predict", model=made / "export", **folders) == 2
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if "t003.tif: cannot be read" in line]
    assert len(list((tmp_path / "out").glob("*_mask.png"))) == 7


@pytest.mark.slow
def test_predict_takes_a_file_with_a_pattern_in_its_name(made, cells, tmp_path):
    shutil.copy(cells / "01/t000.tif", tmp_path / "x[1].tif")
    folders = {"input": tmp_path / "x[1].tif", "output": tmp_path / "out"}
    assert run("predict", model=made / "export", **folders) == 0
    assert (tmp_path / "out/x[1]_mask.png").exists()


@pytest.mark.slow
def test_predict_wants_images(made, tmp_path, capfd):
    (tmp_path / "in").mkdir()
    folders = {"input": tmp_path / "in", "output": tmp_path / "o"}
    assert run("predict", model=made / "export", **folders) == 2
    assert "no images there that can be read" in capfd.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_predict_does_not_write_among_its_images(made, cells, tmp_path, capfd):
    folder = pathlib.Path(shutil.copytree(cells / "01", tmp_path / "in"))
    assert run("predict", model=made / "export", input=folder, output=folder) == 2
    assert "holds the images" in capfd.readouterr().err
    assert not list(folder.glob("*.png"))


def test_predict_refuses_a_broken_model(cells, tmp_path, capfd):
    (tmp_path / "saved_model.pb").write_text("hello")
    folders = {"input": cells / "01", "output": tmp_path / "out"}
    assert run("predict", model=tmp_path, **folders) == 2
    assert "not a SavedModel of export's" in capfd.readouterr().err


def test_drawings_do_not_mix(tmp_path, capsys):
    where = {"output": tmp_path, "size": 48}
    for _ in range(2):
        assert run("draw", **where, frames=3) == 0
    assert run("draw", **where, frames=2) == 2
    assert "holds something else" in capsys.readouterr().err


# E is an empty folder, R a training's, C the drawn cells.
MISTAKES = [
    ("predict --model=E --input=C/01 --output=E/o", "no saved_model.pb"),
    ("export --workdir=E --output=E/o", "config.json: missing"),
    ("export --workdir=R --output=E/o --tile=93", "93 px is not legal"),
    ("export now --workdir=R --output=E/o", "does not take 'now'"),
    ("export --workdirs=R --output=E/o", "workdirs"),
    ("evaluate --workdir=R --input=E", "no frames found"),
    (
        "evaluate --workdir=R --input=C --split=dev",
        "--split=dev: value should be one of <train|",
    ),
    ("train --config=configs/synthetic.py --data=E --workdir=E/o", "json: missing"),
]


@pytest.mark.parametrize("typed, message", MISTAKES)
def test_mistakes_are_one_line_and_leave_nothing(
    trained, cells, tmp_path, capfd, typed, message
):
    folders = {"E": tmp_path, "R": trained, "C": cells}
    name, *rest = re.sub(r"(?<==)[ERC]\b", lambda m: str(folders[m[0]]), typed).split()
    assert message in refused(capfd, name, *rest)
    assert not (tmp_path / "o").exists()


def test_help_of_every_command(capsys):
    for name in COMMANDS:
        assert run(name, "--help") == 0
        assert f"./launch.sh {name}" in capsys.readouterr().out


def test_help_does_not_load_tensorflow():
    code = (
        "import sys\n"
        "from trainer.main import COMMANDS\n"
        "from unet_tfrecords.command import cli\n"
        "cli.main(COMMANDS['train'], ['--help'])\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    process(PYTHON, "-c", code, check=True)


def launch(*arguments):
    return process("./launch.sh", *arguments)


def test_launcher_lists_every_mode_with_an_example():
    modes = "demo test setup draw preprocess verify train evaluate export".split()
    modes += ["predict", "benchmark", "summary", "lock"]
    shown = [launch(), launch("-h"), launch("--help"), launch("traim")]
    assert [done.returncode for done in shown] == [0, 0, 0, 2]
    for done in shown:
        text = done.stdout + done.stderr
        for mode in modes:
            assert f"./launch.sh {mode}" in text
    assert "no command 'traim'" in shown[3].stderr


@pytest.mark.slow
def test_launcher_passes_a_commands_exit_code_on(tmp_path):
    done = launch("export", f"--workdir={tmp_path}", f"--output={tmp_path}/o")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("export: ")
    assert "Traceback" not in done.stderr
