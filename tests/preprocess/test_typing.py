"""Flags, configs and paths as they are typed."""

import pytest

from tests.commands import PYTHON, SMOKE, lines_of, process, refused, run, typed
from tests.preprocess.commands import DRAWN, SMALL, preprocess
from unet_tfrecords.dataset import dataset_info


@pytest.mark.parametrize(
    "more, words",
    [
        (
            ["--config.data.tile_sise=60"],
            "the config has no 'tile_sise'; did you mean 'tile_size'?",
        ),
        (["--config.data.xyzzy=60"], "the config has no 'xyzzy'; see --help"),
        (["--config.data.tile_size=61"], "61 px is not legal at depth 2"),
        (["--config.data.tile_size=abc"], "abc"),
        (["--config.data.image_encoding=gif"], "none of png, raw"),
        (["--config.data.border_weight=20.0"], "steps of 0.078"),
        (["--config.data.layout=zarr"], "none of isbi, ctc, folder"),
        (["--config.data.augment.gamma=-1.0"], "augment.gamma=-1.0 must be at least 0"),
        (
            ["--config.data.augment.elastic_sigma_px=nan"],
            "elastic_sigma_px=nan must be",
        ),
        (["--config.data.border_weight=nan"], "border_weight=nan must be at least 0"),
        (["--config.data.augment.rotation_deg=inf"], "deg=inf must be at least 0, and"),
        (["--config.data.border_sigma_px=nan"], "border_sigma_px=nan: must be above"),
        (["--config.data.split.validation=nan"], "split.validation=nan must be at"),
        (["--config.data.split.test=-0.5"], "split.test=-0.5 must be at least 0"),
        (["--config.model.classes=300"], "classes=300: at most 255"),
        (["--runner=Foo"], "--runner=Foo"),
        (["--direct_num_workers=abc"], "direct_num_workers"),
        (["--outputs=x"], "neither a flag of preprocess nor an option of Beam"),
    ],
)
def test_mistyped_commands_are_one_line(cells, tmp_path, capfd, more, words):
    assert preprocess(cells, tmp_path / "out", *more) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert words in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "config, words",
    [("nope.py", "configs/nope.py"), ("synthetic.py:gpu", "no variant 'gpu'")],
)
def test_unknown_configs_are_one_line(cells, tmp_path, capfd, config, words):
    given = {"config": f"configs/{config}", "input": cells, "output": tmp_path / "o"}
    assert words in refused(capfd, "preprocess", **given)  # without overrides


@pytest.mark.parametrize("text", ["def get_config(:", "import nope", "1 / 0"])
def test_broken_configs_are_one_line(cells, tmp_path, capfd, text):
    (tmp_path / "c.py").write_text(text)
    given = {"config": tmp_path / "c.py", "input": cells, "output": tmp_path / "o"}
    assert len(refused(capfd, "preprocess", **given)) > 30


@pytest.mark.slow
def test_configs_are_found_from_any_folder(cells, tmp_path, monkeypatch, made, digests):
    monkeypatch.chdir(tmp_path)
    assert preprocess(cells, tmp_path / "out") == 0
    assert digests(tmp_path / "out") == digests(made)


def test_output_in_a_files_place_is_one_line(cells, tmp_path, capfd):
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file/below"):
        assert preprocess(cells, output) == 2
        [line] = lines_of(capfd, "preprocess")
        assert str(tmp_path / "file") in line


def test_missing_flags_and_help(capsys):
    assert run("preprocess", "--input=x") == 2
    assert "--output, --config must be given" in capsys.readouterr().err
    assert run("preprocess", "--help") == 0
    text = capsys.readouterr().out
    assert "--input (required)" in text and "Beam option" in text


@pytest.mark.slow
def test_preprocess_never_loads_tensorflow(cells, tmp_path):
    code = (
        "import sys\n"
        "from unet_tfrecords.command import cli\n"
        "from preprocess import main\n"
        "code = cli.main(main.COMMAND)\n"
        "loaded = {m.split('.')[0] for m in sys.modules} & {'tensorflow', 'keras'}\n"
        "assert not loaded, loaded\n"
        "sys.exit(code)"
    )
    given = typed(DRAWN, *SMALL, input=cells, output=tmp_path / "out")
    process(PYTHON, "-c", code, *given, check=True)
    assert (tmp_path / "out" / dataset_info.INFO_NAME).exists()


@pytest.mark.slow
def test_paths_may_be_relative(cells, tmp_path, monkeypatch, made, digests):
    monkeypatch.chdir(cells.parent)
    where = {"input": "cells/", "output": tmp_path / "out"}
    assert run("preprocess", SMOKE, *SMALL, **where) == 0
    assert digests(tmp_path / "out") == digests(made)
