"""What came as data is never executed, and leads nowhere outside its folder.

Each test gives a real command what a stranger may have packed: a data set, a run, a
model, file names.
"""

import ast
import json
import os
import pathlib
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tifffile

from tests.commands import PYTHON, ROOT, TINY, lines_of, process, run
from tests.conftest import edit
from tests.folders import tree
from trainer.export import artefact_layout
from trainer.input import shard_files
from trainer.run import workdir
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset import dataset_info, shards
from unet_tfrecords.storage import files

OUTSIDE = ("../outside", "/outside", "a/../../outside", "..", "", "\n", "x\0y")


def assert_refused(capfd, place, name, *arguments, **flags) -> None:
    """That a command ends with one line, about some file."""
    assert run(name, *arguments, **flags) == 2
    [line] = lines_of(capfd, name)
    assert str(place) in line


@pytest.fixture
def box(tmp_path, shards_folder):
    """A folder with a data set inside, and files beside it that are not its own."""
    shutil.copytree(shards_folder, tmp_path / "box/data")
    for name in ("outside", "outside.tfrecord", "outside.tfrecord.json"):
        (tmp_path / "box" / name).write_text("mine")
    return tmp_path / "box"


def first_shard(info):
    return info["splits"]["train"]["shards"][0]


CRAFTED = {
    **{
        f"shard {name!r}": lambda info, name=name: first_shard(info).update(name=name)
        for name in (*OUTSIDE, "../outside.tfrecord", 7, None, ["x"])
    },
    "shard of another split": lambda info: first_shard(info).update(
        name="test-00000-of-00001.tfrecord"
    ),
    "shard's digest": lambda info: first_shard(info).update(sha256="../../outside"),
    "part": lambda info: info.update(
        source_parts=[{"name": "../outside", "frames": 1, "bytes": 4, "sha256": "0"}]
    ),
    "split": lambda info: info["splits"].update({"../x": info["splits"]["train"]}),
    "splits": lambda info: info.update(splits=[]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CRAFTED)
def test_a_data_set_names_no_file_outside_its_folder(box, cells, capfd, name):
    info = box / "data" / dataset_info.INFO_NAME
    edit(info, CRAFTED[name])
    # Something to mend, so that preprocess would note what is there.
    next((box / "data").glob("validation-*")).unlink()
    before = tree(box)
    data, training = box / "data", [*TINY, f"--workdir={box}/w"]
    for command, arguments in (
        ("preprocess", [*TINY, f"--input={cells}", f"--output={data}"]),
        ("verify", [f"--data={data}"]),
        ("preview", [f"--data={data}", f"--output={box}/out"]),
        ("train", [*training, f"--data={data}", "--on_bad_record=skip"]),
        ("train", [*training, f"--data={data}", f"--cache={box}/c/d"]),
    ):
        assert_refused(capfd, info, command, *arguments)
        assert tree(box) == before


def test_overwrite_removes_what_is_named_like_a_shard_and_nothing_else(box, cells):
    edit(
        box / "data" / dataset_info.INFO_NAME,
        lambda info: first_shard(info).update(name="../outside.tfrecord"),
    )
    (box / "data/mine.tfrecord").write_text("mine")
    (box / "data/train-00000-of-00009.tfrecord").symlink_to(box / "outside")
    where = {"input": cells, "output": box / "data"}
    assert run("preprocess", *TINY, "--overwrite", **where) == 0
    for path in (box / "outside", box / "outside.tfrecord", box / "data/mine.tfrecord"):
        assert path.read_text() == "mine"
    assert not (box / "data/train-00000-of-00009.tfrecord").is_symlink()


def test_a_noted_shard_speaks_for_itself_alone(box):
    info = dataset_info.read_info(str(box / "data"))
    shard = info.splits["train"].shards[0]
    shards.write_sidecar(str(box / "data"), shard)
    kept = shards.kept_shard(str(box / "data"), shard.name, shard.made_from)
    assert kept == shard
    note = box / "data" / f"{files.TEMPORARY}{shard.name}.json"
    edit(note, lambda content: content.update(name="../outside.tfrecord"))
    assert not shards.kept_shard(str(box / "data"), shard.name, shard.made_from)


def test_links_are_removed_and_not_what_they_lead_to(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/file").write_text("mine")
    (tmp_path / "out").mkdir()
    link = tmp_path / "out" / f"{files.TEMPORARY}x"
    link.symlink_to(tmp_path / "theirs")
    files.remove_unfinished(str(tmp_path / "out"))
    assert not link.is_symlink()
    assert (tmp_path / "theirs/file").read_text() == "mine"


def test_a_lock_that_is_a_link_empties_no_other_file(tmp_path, cells, capfd):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / files.LOCK_NAME).symlink_to(tmp_path / "mine")
    where = {"input": cells, "output": tmp_path / "out"}
    assert_refused(capfd, files.LOCK_NAME, "preprocess", *TINY, **where)
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give folders away")
def test_a_cache_that_another_user_laid_out_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_files, "MEMORY_FOLDER", str(tmp_path))
    folder = shard_files.cache_folder(shard_files.MEMORY)
    assert shard_files.cache_folder(shard_files.MEMORY) == folder  # the next run's
    assert os.stat(folder).st_mode & 0o777 == 0o700
    os.chown(folder, 65534, 65534)
    with pytest.raises(UserError, match="another user's"):
        shard_files.cache_folder(shard_files.MEMORY)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["part", "splits", "shard '../outside'"])
def test_a_run_names_no_file_outside_its_folder(trained, box, cells, capfd, name):
    folder = box / "run"
    shutil.copytree(trained, folder)
    info = folder / dataset_info.INFO_NAME
    edit(info, CRAFTED[name])
    before = tree(box)
    assert_refused(capfd, info, "evaluate", workdir=folder, input=cells)
    assert tree(box) == before


@pytest.mark.slow
def test_a_runs_config_is_read_as_data(trained, tmp_path, capfd, cells):
    """config.json says what it likes: nothing of it is evaluated."""
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    (folder / "SHA256SUMS").unlink()  # which would notice the change
    code = f"__import__('pathlib').Path({str(tmp_path / 'ran')!r}).touch()"
    edit(
        folder / "config.json",
        lambda c: c["data"].update(name=code, mask_suffix=f"{{{{{code}}}}}"),
    )
    config = workdir.read_config(str(folder))
    assert config.data.name == code
    where = {"workdir": folder, "input": cells}
    assert run("evaluate", **where) == 0
    assert not (tmp_path / "ran").exists()
    (folder / "config.json").write_text("import os; os.system('true')")
    assert_refused(capfd, "config.json: broken", "evaluate", **where)


def test_versions_of_a_model_are_plain_numbers(tmp_path):
    """Other digits than 0 to 9 count as such for str.isdigit, and not for int."""
    for name in ("1", "²", "..", "1 "):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / artefact_layout.GRAPH).touch()
    (tmp_path / artefact_layout.GRAPH).unlink(missing_ok=True)
    assert artefact_layout.newest_version(str(tmp_path)) == str(tmp_path / "1")


# --- Names of files ------------------------------------------------------------------


# --- The source ----------------------------------------------------------------------

PRODUCT = ("preprocess", "trainer", "doctor", "configs", "benchmarks", "deploy")
PRODUCT += ("unet_tfrecords",)
NAMES = {  # of functions that execute data, and that ruff's S rules do not know
    *("unpack_archive", "enable_unsafe_deserialization", "py_function"),
    *("numpy_function", "run_path", "literal_eval", "compile_command"),
}
ARGUMENTS = {("allow_pickle", True), ("safe_mode", False), ("autoescape", False)}


def source_files() -> list[pathlib.Path]:
    found = [path for name in PRODUCT for path in (ROOT / name).rglob("*.py")]
    return [*found, ROOT / "setup.py"]


def forbidden(tree: ast.AST) -> list[str]:
    """What ruff's S rules leave to us, by line."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            name = node.attr if isinstance(node, ast.Attribute) else node.id
            if name in NAMES or name in ("eval", "exec") and isinstance(node, ast.Name):
                found.append(f"line {node.lineno}: {name}")
        if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
            if (node.arg, node.value.value) in ARGUMENTS:
                found.append(f"line {node.value.lineno}: {node.arg}")
    return found


def test_no_source_executes_what_it_reads():
    assert len(source_files()) > 100
    problems = [
        f"{path.relative_to(ROOT)}: {problem}"
        for path in source_files()
        for problem in forbidden(ast.parse(path.read_text()))
    ]
    assert problems == []
    bad = "np.load(f, allow_pickle=True); eval('1'); x.py_function(y); network.eval()"
    assert len(forbidden(ast.parse(bad))) == 3


def test_templates_trust_nothing_but_our_charts():
    paths = [p for room in PRODUCT for p in (ROOT / room).rglob("templates/*.html")]
    assert len(paths) > 2
    for path in paths:
        text = path.read_text()
        assert "autoescape" not in text and "<script" not in text
        for trusted in re.findall(r"{{([^}]*\bsafe\b[^}]*)}}", text):
            assert trusted.strip() == "entry.svg | safe"
        # Unquoted, an attribute could be ended by a space.
        assert not re.search(r"\w={{", text)


def test_bandits_rules_are_on():
    """Nothing here counts if somebody takes them out of pyproject.toml."""
    bad = """
import pickle, subprocess, os, yaml, jinja2, tarfile
pickle.loads(b"")
subprocess.run("ls", shell=True)
os.system("ls")
eval("1")
exec("1")
yaml.load("")
jinja2.Environment()
tarfile.open("x").extractall("y")
"""
    ruff = [PYTHON, "-m", "ruff", "check", "--output-format=concise"]
    done = process(*ruff, "--stdin-filename=preprocess/new.py", "-", input=bad)
    for rule in ("S301", "S602", "S605", "S307", "S102", "S506", "S701", "S202"):
        assert rule in done.stdout


@pytest.mark.slow
def test_a_saved_model_is_a_program(tmp_path):
    """Why docs/inference.md says to load only models one trusts: its graph runs."""
    module = tf.Module()
    secret, written = tmp_path / "secret", tmp_path / "written"
    secret.write_text("mine")

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 1], name="image")])
    def segment(image):
        content = tf.io.read_file(str(secret))
        with tf.control_dependencies([tf.io.write_file(str(written), content)]):
            return {"probabilities": tf.concat([image, image], -1)}

    model = tmp_path / "model/1"
    tf.saved_model.save(module, str(model), {"serving_default": segment})
    about = {"channels": 1, "class_names": ["a", "b"], "classes": 2, "depth": 2}
    (model / artefact_layout.EXTRA).mkdir()
    text = json.dumps({**about, "normalization": None, "tile": 108})
    (model / artefact_layout.EXTRA / artefact_layout.ABOUT).write_text(text)
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in/a.tif", np.arange(64, dtype=np.uint8).reshape(8, 8))
    where = {"input": tmp_path / "in", "output": tmp_path / "out"}
    assert run("predict", model=tmp_path / "model", **where) == 0
    assert written.read_text() == "mine"
