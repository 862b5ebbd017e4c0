"""TensorFlow as tests need it besides the installed one: made once, then kept.

Each lies in the user's cache, under a name that says what it was made from. Half of one
is never seen: it is made under another name.
"""

import fcntl
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

ROOT = pathlib.Path(__file__).parents[2]
UNUSED_S = 86400  # older ones go when another is made: each has 2 to 3 GB


def io_python() -> pathlib.Path:
    """The io environment's Python; skips where there is none and no PyPI either."""
    names = ("requirements/io.lock", "pyproject.toml")
    content = b"".join((ROOT / name).read_bytes() for name in names)
    return _kept("io", content, _make_io) / "bin" / "python"


def cuda_wheel() -> pathlib.Path:
    """A folder with TensorFlow's locked CUDA wheel, without CUDA itself.

    For PYTHONPATH, before the environment's own TensorFlow; skips as `io_python` does.
    """
    lock = (ROOT / "requirements/gpu.lock").read_text()
    [requirement] = re.findall(r"^tensorflow==(?:.*\\\n)*.*\n", lock, re.MULTILINE)

    def make(folder: pathlib.Path) -> None:
        folder.mkdir()
        wanted = folder / "requirements.txt"
        wanted.write_text(requirement)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        pip += ["--no-compile", "--no-cache-dir", "--require-hashes"]
        _run([*pip, f"--target={folder}", f"--requirement={wanted}"], {})

    return _kept("cuda", requirement.encode(), make)


def _kept(
    kind: str, made_from: bytes, make: Callable[[pathlib.Path], None]
) -> pathlib.Path:
    """The folder of an environment, made if it is not there."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    cache = pathlib.Path(home) / "unet-tfrecords"
    cache.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(made_from + sys.version.encode()).hexdigest()[:16]
    folder = cache / f"{kind}-{digest}"
    with open(cache / "lock", "wb") as file:  # of several test processes one makes it
        fcntl.flock(file, fcntl.LOCK_EX)
        if not folder.exists():
            _remove_old(cache, kind)
            making = folder.with_name("making")
            shutil.rmtree(making, ignore_errors=True)
            _skip_without_pypi(making, kind)
            make(making)
            making.rename(folder)
        os.utime(folder)
    return folder


def _remove_old(cache: pathlib.Path, kind: str) -> None:
    for old in cache.glob(f"{kind}-*"):
        if time.time() - old.stat().st_mtime > UNUSED_S:
            shutil.rmtree(old)


def _skip_without_pypi(scratch: pathlib.Path, kind: str) -> None:
    look = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    look += ["--no-cache-dir", "--retries=0", "--timeout=15"]
    found = subprocess.run(
        [*look, f"--dest={scratch}", "objsize"], capture_output=True, timeout=120
    )
    shutil.rmtree(scratch, ignore_errors=True)
    if found.returncode:
        pytest.skip(f"no {kind} environment in the cache, and PyPI can't be reached")


def _make_io(folder: pathlib.Path) -> None:
    given = {"UNET_FLAVOUR": "io", "UNET_VENV": str(folder), "PYTHON": sys.executable}
    given["PIP_COMPILE"] = "0"  # half a minute, for modules that nothing here imports
    _run([str(ROOT / "launch.sh"), "setup"], given)
    folder.with_name(f"{folder.name}.lock").unlink(missing_ok=True)  # launch.sh's


def _run(command: list[str], environment: dict[str, str]) -> None:
    # What lies on PYTHONPATH, pip takes for installed.
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        command, env={**inherited, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
