"""launch.sh: what it must not do to what it has not made."""

import concurrent.futures
import pathlib
import shutil
import sys

import pytest

from tests.commands import ROOT, process
from tests.folders import write_program


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """Nobody's choice of a Python or an environment, from around the tests."""
    for name in ("PYTHON", "UNET_FLAVOUR", "UNET_VENV", "UNET_EXTRA"):
        monkeypatch.delenv(name, raising=False)


def launch(
    *command: str,
    cwd: pathlib.Path | None = None,
    root: pathlib.Path = ROOT,
    **environment: str,
):
    return process(root / "launch.sh", *command, cwd=cwd, env=environment, timeout=60)


@pytest.mark.parametrize("python", ["", "/nowhere/python"])
def test_a_folder_that_is_no_environment_is_left_alone(tmp_path, python):
    write_program(tmp_path / "bin/python", "#!/bin/sh\necho 3.1\n")
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


def test_flavours_are_checked_for_every_command():
    for command in ("setup", "doctor", "test"):
        for name in ("UNET_FLAVOUR", "UNET_EXTRA"):
            done = launch(command, **{name: "azure"})
            assert done.returncode == 2 and "UNET_FLAVOUR=azure: cpu" in done.stderr
    assert launch("test", UNET_FLAVOUR="io").returncode == 2


def test_modules_in_the_folder_where_it_is_typed_are_not_imported(tmp_path):
    """A folder of images from anywhere may hold a json.py."""
    for name in ("json", "numpy", "absl", "doctor"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w')")
    where = {"UNET_VENV": str(tmp_path / "none"), "PYTHON": sys.executable}
    done = launch("doctor", "--help", cwd=tmp_path, **where)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists()


# --- Environments: one a flavour, made by one launch.sh at a time ---------------------

# Plays Python, venv and pip: notes what is installed, and takes its time.
PYTHON = """#!/bin/bash
case "$*" in
  "-m venv "*)
    mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && touch "$3/pyvenv.cfg" ;;
  "-m pip "*) sleep 0.5; echo "$*" >>"$INSTALLED" ;;
  -c*print*) echo 3.11 ;;
  --version) echo "Python 3.11.0" ;;
esac
"""
GPUS = """#!/bin/bash
for i in $(seq 5000); do
  echo "GPU $i: NVIDIA H200 (UUID: GPU-00000000)" || exit 1  # its reader has gone
done
"""


@pytest.fixture
def checkout(tmp_path) -> pathlib.Path:
    """A launch.sh with stand-ins for Python and its installer beside it."""
    folder = tmp_path / "checkout"
    (folder / "requirements").mkdir(parents=True)
    shutil.copy(ROOT / "launch.sh", folder)
    (folder / "pyproject.toml").write_text("")
    for flavour in ("cpu", "gpu"):
        (folder / f"requirements/{flavour}.lock").write_text(flavour)
    write_program(tmp_path / "python3.11", PYTHON)
    return folder


def set_up(checkout: pathlib.Path, *, gpus: bool = False, **more: str):
    """What `launch.sh setup` says on a machine with or without GPUs."""
    programs = checkout.parent / ("with" if gpus else "without")
    if gpus:
        write_program(programs / "nvidia-smi", GPUS)
    return launch(
        "setup",
        root=checkout,
        PATH=f"{programs}:{checkout.parent}:/usr/bin:/bin",
        INSTALLED=str(checkout.parent / "installed"),
        **more,
    )


def installs(checkout: pathlib.Path) -> list[str]:
    lines = (checkout.parent / "installed").read_text().splitlines()
    return [line for line in lines if "--require-hashes" in line]


def test_each_flavour_has_its_environment(checkout):
    """A login node without a GPU leaves alone what jobs on its GPU nodes use."""
    assert set_up(checkout, gpus=True).returncode == 0
    theirs = checkout / ".venv-gpu/bin/theirs"
    theirs.write_text("in use")
    assert set_up(checkout).returncode == 0
    assert (checkout / ".venv-cpu/bin/python").exists() and theirs.exists()
    assert set_up(checkout, UNET_FLAVOUR="gpu").returncode == 0  # from the login node
    locks = [line.rsplit("/", 1)[1] for line in installs(checkout)]
    assert locks == ["gpu.lock", "cpu.lock"]  # the third had nothing to do


def test_two_at_once_install_once(checkout):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: set_up(checkout), range(2)))
    assert [done.returncode for done in both] == [0, 0]
    assert len(installs(checkout)) == 1
    assert sum("waiting: another launch.sh" in done.stderr for done in both) == 1


def test_a_failed_installation_is_not_taken_for_complete(checkout):
    failing = PYTHON.replace('echo "$*" >>"$INSTALLED"', "exit 1")
    write_program(checkout.parent / "python3.11", failing)
    assert set_up(checkout).returncode == 1
    assert not (checkout / ".venv-cpu/.complete").exists()
    (checkout / ".venv-cpu/half-a-package").touch()
    write_program(checkout.parent / "python3.11", PYTHON)
    done = set_up(checkout)
    assert done.returncode == 0 and "did not end" in done.stderr
    assert not (checkout / ".venv-cpu/half-a-package").exists()
    assert set_up(checkout).returncode == 0 and len(installs(checkout)) == 1


def test_exec_runs_a_program_of_the_environment(checkout):
    assert set_up(checkout).returncode == 0
    write_program(checkout / ".venv-cpu/bin/tool", '#!/bin/bash\necho "tool $*"\n')
    done = launch("exec", "tool", "--flag", root=checkout, PATH="/usr/bin:/bin")
    assert done.stdout == "tool --flag\n", done.stderr
    assert launch("exec", root=checkout).returncode == 2


def test_an_environment_elsewhere_keeps_its_flavour(checkout, tmp_path):
    """Shared by GPU nodes and a login node without a GPU."""
    where = {"UNET_VENV": str(tmp_path / "shared")}
    assert set_up(checkout, gpus=True, **where).returncode == 0
    theirs = tmp_path / "shared/bin/theirs"
    theirs.write_text("in use")
    assert set_up(checkout, **where).returncode == 0 and theirs.exists()
    assert len(installs(checkout)) == 1
