"""Names that files and folders can have: as good as any, or refused in a line."""

import errno
import os

import pytest

from tests import commands
from tests.commands import lines_of, module, process, refused, run
from tests.folders import FOLDER, lay
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset import dataset_info
from unet_tfrecords.dataset.drawn_cells import draw_cells
from unet_tfrecords.dataset.images import formats, pages
from unet_tfrecords.storage import files

CONFIG = [
    *FOLDER,
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
    return lay(folder, dict(zip(names, drawn, strict=True)))


@pytest.mark.slow
def test_odd_names_go_all_the_way(tmp_path, capfd):
    here = tmp_path / ODD
    source, data, to = here / f"in{ODD}", here / f"data{ODD}", here / f"run{ODD}"
    model, out, pictures = here / f"m{ODD}", here / f"out{ODD}", here / f"pre{ODD}"
    put(source, NAMES)
    assert run("preprocess", *CONFIG, input=source, output=data) == 0
    info = dataset_info.read_info(str(data))
    found = {source.frame.split("/", 2)[2] for source in info.sources}
    assert found == set(NAMES)
    assert run("verify", data=data) == 0
    assert run("preview", data=data, output=pictures) == 0
    page = (pictures / "index.html").read_text()
    assert "<b>&#;$HOME" not in page
    assert run("train", *CONFIG, data=data, workdir=to) == 0
    assert run("evaluate", workdir=to, input=source) == 0
    assert "<b>&#;$HOME" not in (to / "report.html").read_text()
    assert run("export", workdir=to, output=model, weights="variables") == 0
    capfd.readouterr()
    assert run("predict", model=model, input=source / "images", output=out) == 2
    [line] = lines_of(capfd, "predict")
    assert "nnn_overlay.png would have a name of more than 255 bytes" in line
    masks = {path.name.removesuffix("_mask.png") for path in out.glob("*_mask.png")}
    assert masks == set(NAMES) - {"n" * 251}

    # Patterns: not for what TensorFlow keeps its weights in, for all else.
    here = tmp_path / PATTERN
    put(here, ["a", "b", "c", "d", "e"])
    data = here / PATTERN
    assert run("preprocess", *CONFIG, input=here, output=data) == 0
    assert run("verify", data=data) == 0
    capfd.readouterr()
    assert run("train", *CONFIG, data=data, workdir=here) == 2
    assert "--workdir=" in (said := capfd.readouterr().err) and "no weights" in said
    assert run("export", workdir=to, output=here / "model") == 2
    assert "no weights below" in capfd.readouterr().err
    os.rename(model, here / "model")
    outs = {"input": here / "images", "output": here / "out"}
    assert run("predict", model=here / "model", **outs) == 2
    assert "no weights below" in capfd.readouterr().err
    os.rename(here / "model", model)

    # Names that are no text: images are segmented, and told of in one line each.
    put(here / "bad", ["a", *UNPRINTABLE])
    (here / "bad/images/br\nok.tif").write_bytes(b"no image")
    outs["input"] = here / "bad/images"
    assert run("predict", model=model, **outs) == 2
    lines = capfd.readouterr().err.splitlines()
    assert [x for x in lines if "br\\nok.tif: cannot be read as an image" in x]
    made = {name for name in os.listdir(here / "out") if "_mask" in name}
    assert made == {f"{name}_mask.png" for name in ("a", *UNPRINTABLE)}
    assert run("predict", model=model, **outs) == 2  # again: finished images are known
    assert "made otherwise" not in capfd.readouterr().err


@pytest.mark.slow
def test_frames_whose_names_are_no_text(tmp_path, capfd):
    put(tmp_path / "in", ["a", "b", "c", "d", "e", *UNPRINTABLE])
    where = {"input": tmp_path / "in", "output": tmp_path / "out"}
    assert run("preprocess", *CONFIG, **where) == 2
    lines = lines_of(capfd, "preprocess")
    assert len(lines) == 3 and all("not printable text; rename" in x for x in lines)
    assert run("preprocess", *CONFIG, **where, on_bad_frame="skip") == 0
    info = dataset_info.read_info(f"{tmp_path}/out")
    assert len(info.skipped) == 3 and len(info.sources) == 5


@pytest.mark.parametrize("name", ["x\ny", "x\udcff", "x\u2028y", "x\x1b[31m"])
@pytest.mark.parametrize(
    "command, flag",
    [
        ("preprocess", "output"),
        ("verify", "data"),
        ("draw", "output"),
        ("train", "workdir"),
        ("export", "publish"),
        ("predict", "model"),
        ("compare", ""),
    ],
)
def test_folders_whose_names_are_no_text_are_one_line(
    command, flag, name, tmp_path, capfd
):
    known = commands.command(command)
    given = [f"--{needed}={tmp_path}" for needed in known.required if needed != flag]
    given += CONFIG if known.takes_config else []
    given.append(f"--{flag}={tmp_path}/{name}" if flag else f"{tmp_path}/{name}")
    line = refused(capfd, command, *given)
    assert "take another name" in line and line.isprintable()
    assert os.listdir(tmp_path) == []


def test_a_name_is_told_where_nothing_but_ascii_can_be_written(tmp_path):
    """The C locale, a log, a name of letters that it has not."""
    folder = os.path.join(tmp_path, "é\udcff")
    os.mkdir(folder)
    ascii_only = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict"}
    done = process(*module("verify", data=folder), env=ascii_only)
    assert done.returncode == 2 and "Traceback" not in done.stderr
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
            os.chmod(folder, 0o711)  # noqa: S103  as above
        os.seteuid(65534)
    try:
        with pytest.raises(UserError, match="a.tif: Permission denied$"):
            formats.read_image(pages.Page(str(path)), 1)
    finally:
        if not os.getuid():
            os.seteuid(0)
