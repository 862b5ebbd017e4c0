"""The io environment for tests: made once by launch.sh, kept between test runs.

It lies in the user's cache, under a name that tells what it was made from. Half of one
is never seen: it is made under another name.
"""

import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
MADE_FROM = ("requirements/io.lock", "pyproject.toml")
UNUSED_S = 7 * 86400  # older ones go when another is made: each has 2.8 GB


def io_python() -> pathlib.Path:
    """The io environment's Python; skips where there is none and no PyPI either."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    cache = pathlib.Path(home) / "unet-tfrecords"
    cache.mkdir(parents=True, exist_ok=True)
    content = b"".join((ROOT / name).read_bytes() for name in MADE_FROM)
    digest = hashlib.sha256(content + sys.version.encode()).hexdigest()[:16]
    folder = cache / f"io-{digest}"
    with open(cache / "lock", "wb") as file:  # of several test processes one makes it
        fcntl.flock(file, fcntl.LOCK_EX)
        if not folder.exists():
            _remove_old(cache)
            _make(folder)
        os.utime(folder)
    return folder / "bin" / "python"


def _remove_old(cache: pathlib.Path) -> None:
    for old in cache.glob("io-*"):
        if time.time() - old.stat().st_mtime > UNUSED_S:
            shutil.rmtree(old)


def _make(folder: pathlib.Path) -> None:
    making = folder.with_name("making")
    shutil.rmtree(making, ignore_errors=True)
    look = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-cache-dir",
    ]
    found = subprocess.run(
        [*look, "--retries=0", "--timeout=15", f"--dest={making}", "objsize"],
        capture_output=True,
        timeout=120,
    )
    shutil.rmtree(making, ignore_errors=True)
    if found.returncode:
        pytest.skip(f"no io environment in {folder.parent}, and PyPI can't be reached")
    given = {"UNET_EXTRA": "io", "UNET_VENV": str(making), "PYTHON": sys.executable}
    given["PIP_COMPILE"] = "0"  # half a minute, for modules that nothing here imports
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(ROOT / "launch.sh"), "setup"],
        env={**inherited, **given},  # what lies on PYTHONPATH, pip takes for installed
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    making.rename(folder)
