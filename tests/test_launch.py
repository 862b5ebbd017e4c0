"""launch.sh: what it must not do to what it has not made."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


def launch(*command: str, cwd: pathlib.Path | None = None, **environment: str):
    return subprocess.run(
        [str(ROOT / "launch.sh"), *command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("python", ["", "/nowhere/python"])
def test_a_folder_that_is_no_environment_is_left_alone(tmp_path, python):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").write_text("#!/bin/sh\necho 3.1\n")
    (tmp_path / "bin/python").chmod(0o755)
    (tmp_path / "mine.txt").write_text("mine")
    more = {"PYTHON": python} if python else {}
    done = launch("setup", UNET_VENV=str(tmp_path), **more)
    assert done.returncode == 2
    assert f"{tmp_path} is no virtual environment, and not empty" in done.stderr
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("command", ["demo", "setup", "lock", "test"])
def test_help_of_what_has_no_flags_runs_nothing(command, tmp_path):
    nothing = tmp_path / "venv"
    done = launch(command, "--help", UNET_VENV=str(nothing))
    assert done.returncode == 0 and done.stdout.startswith("usage: ./launch.sh")
    assert not nothing.exists()


def test_extras_are_checked_for_every_command():
    for command in ("setup", "doctor", "test"):
        done = launch(command, UNET_EXTRA="azure")
        assert done.returncode == 2 and "UNET_EXTRA=azure: io" in done.stderr
    assert launch("test", UNET_EXTRA="io").returncode == 2


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no safe path")
def test_modules_in_the_folder_where_it_is_typed_are_not_imported(tmp_path):
    """A folder of images from anywhere may hold a json.py."""
    for name in ("json", "numpy", "absl", "doctor"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w')")
    where = {"UNET_VENV": str(tmp_path / "none"), "PYTHON": sys.executable}
    done = launch("doctor", "--help", cwd=tmp_path, **where)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists()
