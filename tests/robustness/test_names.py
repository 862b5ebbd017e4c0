"""Names that files and folders can have: as good as any, or refused in a line."""

import errno
import os
import subprocess
import sys

import pytest
import tifffile

from preprocess import draw, main
from tests.conftest import ROOT, TINY_DATA
from trainer.main import COMMANDS
from unet_tfrecords.command.cli import main as run
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset import dataset_info, preview, verify
from unet_tfrecords.dataset.drawn_cells import draw_cells
from unet_tfrecords.dataset.images import formats, pages
from unet_tfrecords.storage import files

CONFIG = [
    f"--config={ROOT}/configs/folder.py:smoke",
    *TINY_DATA,
    "--config.data.labels=instance",
    "--config.train.steps=2",
    "--config.train.validate_every_steps=2",
]
ODD = "-ä b %d'\"<b>&#;$HOME~\U0001f600,:="
PATTERN = "x[1]*?{a,b}\\n"  # to a shell, to glob, to TensorFlow
NAMES = [
    "a b",
    "A B",
    "a%20b",
    "\u00e9",
    "e\u0301",  # the same letter in two characters
    "x[1]",
    "*",
    "-x",
    "a'b\"<b>",
    "\U0001f600",
    "n" * 251,  # with its ending as long as can be
    "~",
]
UNPRINTABLE = ["n\nl", "t\tb", "\udcff"]  # the last one is a byte that is no UTF-8


def put(folder, names):
    """Drawn images and masks of some names."""
    drawn = draw_cells(96, len(names), 3)
    for name, (image, instances) in zip(names, drawn, strict=True):
        for kind, pixels in (("images", image), ("masks", instances)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            path = os.path.join(folder, kind, f"{name}.tif")
            with open(path, "wb") as file:  # without a temporary name
                tifffile.imwrite(file, pixels)


@pytest.mark.slow
def test_odd_names_go_all_the_way(tmp_path, capfd):
    here = tmp_path / ODD
    source, data, to = here / f"in{ODD}", here / f"data{ODD}", here / f"run{ODD}"
    model, out, pictures = here / f"m{ODD}", here / f"out{ODD}", here / f"pre{ODD}"
    put(source, NAMES)
    assert run(main.COMMAND, [*CONFIG, f"--input={source}", f"--output={data}"]) == 0
    info = dataset_info.read_info(str(data))
    found = {source.frame.split("/", 2)[2] for source in info.sources}
    assert found == set(NAMES)
    assert run(verify.COMMAND, [f"--data={data}"]) == 0
    assert run(preview.COMMAND, [f"--data={data}", f"--output={pictures}"]) == 0
    page = (pictures / "index.html").read_text()
    assert "<b>&#;$HOME" not in page
    trained = [*CONFIG, f"--data={data}", f"--workdir={to}"]
    assert run(COMMANDS["train"], trained) == 0
    scored = [f"--workdir={to}", f"--input={source}"]
    assert run(COMMANDS["evaluate"], scored) == 0
    assert "<b>&#;$HOME" not in (to / "report.html").read_text()
    exported = [scored[0], f"--output={model}", "--weights=variables"]
    assert run(COMMANDS["export"], exported) == 0
    capfd.readouterr()
    given = [f"--model={model}", f"--input={source}/images", f"--output={out}"]
    assert run(COMMANDS["predict"], given) == 2
    [line] = [x for x in capfd.readouterr().err.splitlines() if x.startswith("predict")]
    assert "nnn_overlay.png would have a name of more than 255 bytes" in line
    masks = {path.name.removesuffix("_mask.png") for path in out.glob("*_mask.png")}
    assert masks == set(NAMES) - {"n" * 251}

    # Patterns: not for what TensorFlow keeps its weights in, for all else.
    here = tmp_path / PATTERN
    put(here, ["a", "b", "c", "d", "e"])
    data = here / PATTERN
    assert run(main.COMMAND, [*CONFIG, f"--input={here}", f"--output={data}"]) == 0
    assert run(verify.COMMAND, [f"--data={data}"]) == 0
    capfd.readouterr()
    assert run(COMMANDS["train"], [*CONFIG, f"--data={data}", f"--workdir={here}"]) == 2
    assert "--workdir=" in (said := capfd.readouterr().err) and "no weights" in said
    assert run(COMMANDS["export"], [scored[0], f"--output={here}/model"]) == 2
    assert "no weights below" in capfd.readouterr().err
    os.rename(model, here / "model")
    given = [f"--model={here}/model", f"--input={here}/images", f"--output={here}/out"]
    assert run(COMMANDS["predict"], given) == 2
    assert "no weights below" in capfd.readouterr().err
    os.rename(here / "model", model)

    # Names that are no text: images are segmented, and told of in one line each.
    put(here / "bad", ["a", *UNPRINTABLE])
    (here / "bad/images/br\nok.tif").write_bytes(b"no image")
    given = [f"--model={model}", f"--input={here}/bad/images", f"--output={here}/out"]
    assert run(COMMANDS["predict"], given) == 2
    lines = capfd.readouterr().err.splitlines()
    assert [x for x in lines if "br\\nok.tif: cannot be read as an image" in x]
    made = {name for name in os.listdir(here / "out") if "_mask" in name}
    assert made == {f"{name}_mask.png" for name in ("a", *UNPRINTABLE)}
    assert run(COMMANDS["predict"], given) == 2  # again: finished images are known
    assert "made otherwise" not in capfd.readouterr().err


@pytest.mark.slow
def test_frames_whose_names_are_no_text(tmp_path, capfd):
    put(tmp_path / "in", ["a", "b", "c", "d", "e", *UNPRINTABLE])
    given = [*CONFIG, f"--input={tmp_path}/in", f"--output={tmp_path}/out"]
    assert run(main.COMMAND, given) == 2
    said = capfd.readouterr().err
    lines = [x for x in said.splitlines() if x.startswith("preprocess: ")]
    assert len(lines) == 3 and all("not printable text; rename" in x for x in lines)
    assert run(main.COMMAND, [*given, "--on_bad_frame=skip"]) == 0
    info = dataset_info.read_info(f"{tmp_path}/out")
    assert len(info.skipped) == 3 and len(info.sources) == 5


@pytest.mark.parametrize("name", ["x\ny", "x\udcff", "x\u2028y", "x\x1b[31m"])
@pytest.mark.parametrize(
    "command, flag",
    [
        (main.COMMAND, "output"),
        (verify.COMMAND, "data"),
        (draw.COMMAND, "output"),
        (COMMANDS["train"], "workdir"),
        (COMMANDS["export"], "publish"),
        (COMMANDS["predict"], "model"),
        (COMMANDS["compare"], ""),
    ],
)
def test_folders_whose_names_are_no_text_are_one_line(
    command, flag, name, tmp_path, capfd
):
    given = [f"--{needed}={tmp_path}" for needed in command.required if needed != flag]
    given += CONFIG if command.takes_config else []
    given.append(f"--{flag}={tmp_path}/{name}" if flag else f"{tmp_path}/{name}")
    assert run(command, given) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith(f"{command.name}: ") and "take another name" in line
    assert line.isprintable()
    assert os.listdir(tmp_path) == []


def test_a_name_is_told_where_nothing_but_ascii_can_be_written(tmp_path):
    """The C locale, a log, a name of letters that it has not."""
    folder = os.path.join(tmp_path, "é\udcff")
    os.mkdir(folder)
    command = [
        sys.executable,
        "-m",
        "unet_tfrecords.dataset.verify",
        f"--data={folder}",
    ]
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run(command, capture_output=True, cwd=ROOT, env=environment)
    assert done.returncode == 2 and b"Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_longest_name_has_room_for_a_temporary_one(tmp_path):
    for name in ("n" * 255, "é" * 127, "\udcff" * 255):
        path = os.path.join(tmp_path, name)
        files.write_bytes(path, b"whole")
        assert files.read_bytes(path) == b"whole"
    with pytest.raises(OSError) as caught:
        files.write_bytes(os.path.join(tmp_path, "n" * 256), b"")
    assert caught.value.errno == errno.ENAMETOOLONG
    assert caught.value.filename == os.path.join(tmp_path, "n" * 256)
    assert len(os.listdir(tmp_path)) == 3


def test_an_image_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    put(tmp_path, ["a"])
    path = tmp_path / "images/a.tif"
    path.chmod(0)
    if not os.geteuid():
        os.chmod(tmp_path, 0o711)  # noqa: S103  nobody has to reach it
        for folder in tmp_path.parents[:2]:  # pytest's own are closed
            os.chmod(folder, 0o711)  # noqa: S103
        os.seteuid(65534)
    try:
        with pytest.raises(UserError, match="a.tif: Permission denied$"):
            formats.read_image(pages.Page(str(path)), 1)
    finally:
        if not os.getuid():
            os.seteuid(0)
