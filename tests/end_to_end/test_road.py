"""The whole road as a user goes it: images in, masks out, by the commands alone."""

import json
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import tensorflow as tf
import tifffile

from preprocess import draw
from preprocess.main import COMMAND as PREPROCESS
from tests.conftest import ROOT
from trainer.main import COMMANDS
from unet_tfrecords.command import cli
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


def command(name, *arguments) -> int:
    chosen = PREPROCESS if name == "preprocess" else COMMANDS[name]
    return cli.main(chosen, [str(argument) for argument in arguments])


def go_the_road(config, source, out, images, *overrides):
    """All commands in turn; returns the scores."""
    settings = (f"--config={config}", *overrides)
    data, workdir = f"{out}/data", f"--workdir={out}/train"
    export, predictions = f"{out}/export", f"--output={out}/predictions"
    made = command("preprocess", *settings, f"--input={source}", f"--output={data}")
    assert made == 0
    assert command("train", *settings, f"--data={data}", workdir) == 0
    assert command("evaluate", workdir, f"--input={source}") == 0
    assert command("export", workdir, f"--output={export}") == 0
    assert (out / "export/1/saved_model.pb").exists()
    model = f"--model={export}"
    assert command("predict", model, f"--input={images}", predictions) == 0
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
    frames = draw_cells(48, 4, 1)
    for index, (image, instances) in enumerate(frames):
        for kind, pixels in (("images", image), ("masks", instances)):
            path = tmp_path / f"raw/{kind}/plate {index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            tint = [image, 255 - image, image // 2]
            cv2.imwrite(str(path), np.dstack(tint) if kind == "images" else pixels)
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
    for index, (image, instances) in enumerate(draw_cells(48, 4, 1)):
        others = noise.integers(0, 256, (2, 48, 48), np.uint8)
        for source, picture in (
            ("blue", np.dstack([image, *others])),  # OpenCV's order is BGR
            ("grey", image),
        ):
            for kind, pixels in (("images", picture), ("masks", instances)):
                path = tmp_path / source / "raw" / kind / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), pixels)
    scores = []
    for source, chosen in (("blue", ["--config.data.channels=(2,)"]), ("grey", [])):
        out = tmp_path / source
        settings = ("--config.data.labels=instance", *TINY, *chosen)
        images = out / "raw/images"
        scores += [
            go_the_road("configs/folder.py:smoke", out / "raw", out, images, *settings)
        ]
        tables = f"--model={out}/export", f"--input={images}", f"--output={out}/t"
        assert command("predict", *tables, "--table", "--min_size_px=0") == 0
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
def run(cells, tmp_path_factory):
    """A finished run on drawn cells, exported twice."""
    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        go_the_road("configs/synthetic.py:smoke", cells, out, cells / "01", *TINY)
        command("export", f"--workdir={out}/train", f"--output={out}/export")
    return out


@pytest.mark.slow
def test_drawn_cells(run, capsys):
    names = [f"t{i:03d}" for i in range(8)]
    assert_pictures(run / "predictions", names, (128, 128))
    versions = sorted(path.name for path in (run / "export").iterdir())
    assert versions == ["1", "2"]
    extra = run / "export/2/assets.extra"
    assert json.loads((extra / "config.json").read_text())["model"]["depth"] == 3
    assert (extra / "model_card.md").exists()


@pytest.mark.slow
def test_evaluate_prints_what_the_json_holds(run, cells, capsys):
    source = f"--input={cells}"
    assert command("evaluate", f"--workdir={run}/train", source) == 0
    table = capsys.readouterr().out
    scores = json.loads((run / "train/evaluation-test.json").read_text())["scores"]
    for name in ("mean_iou", "pixel_error"):
        assert f"{scores[name]:.4f}" in table
    for name, value in scores.items():
        assert value is None or f"{name}  {value:8.4f}" in table


@pytest.mark.slow
def test_evaluate_agrees_with_the_exported_model(run, cells):
    """The same frames through the SavedModel, counted here by hand."""
    model = tf.saved_model.load(str(run / "export/1")).signatures["serving_default"]
    result = json.loads((run / "train/evaluation-test.json").read_text())
    right = total = 0
    for name in ("t006", "t007"):
        image = tifffile.imread(cells / f"01/{name}.tif").astype(np.float32)
        truth = tifffile.imread(cells / f"01_GT/SEG/man_seg{name[1:]}.tif") > 0
        predicted = model(image=image[None, ..., None])["classes"][0].numpy()
        right += (predicted == truth).sum()
        total += truth.size
    assert result["scores"]["pixel_error"] == pytest.approx(1 - right / total)


@pytest.mark.slow
def test_evaluate_refuses_frames_it_was_trained_on(run, cells, tmp_path, capsys):
    """Fewer frames move the blocks: a training frame would be scored as a test one."""
    shutil.copytree(cells, tmp_path / "c")
    for index in (5, 6, 7):
        (tmp_path / f"c/01/t{index:03d}.tif").unlink()
        (tmp_path / f"c/01_GT/SEG/man_seg{index:03d}.tif").unlink()
    arguments = f"--workdir={run}/train", f"--input={tmp_path / 'c'}"
    assert command("evaluate", *arguments) == 2
    assert "t004.tif: was trained on" in capsys.readouterr().err


@pytest.mark.slow
def test_skipped_frames_are_skipped_all_the_way(cells, tmp_path):
    shutil.copytree(cells, tmp_path / "c")
    for name in ("t001", "t007"):  # one to train on, one to test
        (tmp_path / f"c/01/{name}.tif").write_text("hello")
    settings = ("--config=configs/synthetic.py:smoke", *TINY)
    source, data = f"--input={tmp_path / 'c'}", tmp_path / "data"
    skip = "--on_bad_frame=skip"
    assert command("preprocess", *settings, source, f"--output={data}", skip) == 0
    workdir = f"--workdir={tmp_path / 'run'}"
    assert command("train", *settings, f"--data={data}", workdir) == 0
    assert command("evaluate", workdir, source) == 0
    result = json.loads((tmp_path / "run/evaluation-test.json").read_text())
    assert list(result["frames"]) == ["drawn-cells/01/t006"]


@pytest.mark.slow
def test_predict_goes_on_after_a_broken_file(run, cells, tmp_path, capfd):
    shutil.copytree(cells / "01", tmp_path / "in")
    (tmp_path / "in/t003.tif").write_text("hello")
    folders = f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}"
    assert command("predict", f"--model={run}/export", *folders) == 2
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if "t003.tif: cannot be read" in line]
    assert len(list((tmp_path / "out").glob("*_mask.png"))) == 7


@pytest.mark.slow
def test_predict_takes_a_file_with_a_pattern_in_its_name(run, cells, tmp_path):
    shutil.copy(cells / "01/t000.tif", tmp_path / "x[1].tif")
    folders = f"--input={tmp_path / 'x[1].tif'}", f"--output={tmp_path / 'out'}"
    assert command("predict", f"--model={run}/export", *folders) == 0
    assert (tmp_path / "out/x[1]_mask.png").exists()


@pytest.mark.slow
def test_predict_wants_images(run, tmp_path, capfd):
    (tmp_path / "in").mkdir()
    given = [f"--model={run}/export", f"--input={tmp_path}/in"]
    assert command("predict", *given, f"--output={tmp_path}/o") == 2
    assert "no images there that can be read" in capfd.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_predict_does_not_write_among_its_images(run, cells, tmp_path, capfd):
    shutil.copytree(cells / "01", tmp_path / "in")
    folders = f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'in'}"
    assert command("predict", f"--model={run}/export", *folders) == 2
    assert "holds the images" in capfd.readouterr().err
    assert not list((tmp_path / "in").glob("*.png"))


def test_predict_refuses_a_broken_model(cells, tmp_path, capfd):
    (tmp_path / "saved_model.pb").write_text("hello")
    folders = f"--input={cells / '01'}", f"--output={tmp_path / 'out'}"
    assert command("predict", f"--model={tmp_path}", *folders) == 2
    assert "not a SavedModel of export's" in capfd.readouterr().err


def test_drawings_do_not_mix(tmp_path, capsys):
    def drawn(*more):
        return cli.main(draw.COMMAND, [f"--output={tmp_path}", "--size=48", *more])

    assert drawn("--frames=3") == 0 and drawn("--frames=3") == 0
    assert drawn("--frames=2") == 2
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
    assert command(name, *rest) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith(f"{name}: ") and message in line
    assert not (tmp_path / "o").exists()


def test_help_of_every_command(capsys):
    for name in COMMANDS:
        assert command(name, "--help") == 0
        assert f"./launch.sh {name}" in capsys.readouterr().out


def test_help_does_not_load_tensorflow():
    code = (
        "import sys\n"
        "from trainer.main import COMMANDS\n"
        "from unet_tfrecords.command import cli\n"
        "cli.main(COMMANDS['train'], ['--help'])\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def launch(*arguments):
    return subprocess.run(
        ["./launch.sh", *arguments], cwd=ROOT, capture_output=True, text=True
    )


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
