"""The wheel and the sdist, built, looked into, installed and run from elsewhere."""

import pathlib
import re
import tarfile
import zipfile

import pytest

from tests.commands import PYTHON, process
from tests.folders import copy_project

pytestmark = pytest.mark.slow
PIP = [PYTHON, "-m", "pip", "--quiet", "--disable-pip-version-check"]
ROOMS = ("configs", "doctor", "preprocess", "trainer", "unet_tfrecords")
# Without: its dependencies are those of this environment.
ALONE = ("--no-deps", "--no-build-isolation", "--no-index")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> pathlib.Path:
    """What is committed or would be, and nothing of this folder's builds."""
    return copy_project(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("wheel")
    process(*PIP, "wheel", *ALONE, "--wheel-dir", folder, source, check=True)
    [made] = folder.glob("*.whl")
    return made


def test_a_wheel_holds_the_packages_and_no_tests(wheel, source):
    names = set(zipfile.ZipFile(wheel).namelist())
    inside = {n for n in names if ".dist-info/" not in n}
    assert {name.split("/")[0] for name in inside} == set(ROOMS)
    assert {f"{room}/py.typed" for room in ROOMS} <= inside
    for room in ROOMS:
        for suffix in ("*.py", "*.html"):
            for path in (source / room).rglob(suffix):
                assert str(path.relative_to(source)) in inside


def test_installed_every_command_says_what_it_takes(wheel, tmp_path):
    target, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    process(*PIP, "install", *ALONE, "--target", target, wheel, check=True)
    there = {"cwd": elsewhere, "env": {"PYTHONPATH": str(target)}}
    scripts = sorted((target / "bin").glob("unet-*"))
    assert len(scripts) == 12
    for script in scripts:
        done = process(PYTHON, script, "--help", **there)
        assert done.returncode == 0 and not done.stderr, done.stderr
        name = script.name.removeprefix("unet-").replace("-", "_")
        assert re.match(rf"usage: (\./launch\.sh )?{name}\b", done.stdout), done.stdout
    # configs/ are found where they are installed: there are none here.
    given = "--config=configs/synthetic.py:smoke", "--input=gone", "--output=out"
    done = process(PYTHON, target / "bin/unet-preprocess", *given, **there)
    [line] = done.stderr.splitlines()
    assert done.returncode == 2 and "elsewhere/gone: " in line, done.stderr


def test_an_sdist_builds_the_same_wheel(source, wheel, tmp_path):
    code = (
        f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    )
    process(PYTHON, "-c", code, cwd=source, check=True)
    [sdist] = tmp_path.glob("*.tar.gz")
    names = {name.partition("/")[2] for name in tarfile.open(sdist).getnames()}
    assert {"README.md", "LICENSE", "setup.py", "trainer/py.typed"} <= names
    folder = tmp_path / "again"
    process(*PIP, "wheel", *ALONE, "--wheel-dir", folder, sdist, check=True)
    [again] = folder.glob("*.whl")
    first, second = zipfile.ZipFile(wheel), zipfile.ZipFile(again)
    assert sorted(first.namelist()) == sorted(second.namelist())
    for name in first.namelist():
        if not name.endswith("RECORD"):
            assert first.read(name) == second.read(name), name
