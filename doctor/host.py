"""The machine: Python, processor, memory, disk, open files."""

import os
import pathlib
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator

from doctor.finding import Finding
from unet_tfrecords.command.memory import free_memory

PYTHONS = ((3, 11), (3, 14))  # from, and before
MEMORY_GB = 3.0  # a training of :cpu and its validation need less
DISK_GB = 5.0  # the environment takes 3
OPEN_FILES = 1024  # shards, sockets and libraries of one training stay below


def look(output: str) -> Iterator[Finding]:
    """Looks at the machine.

    Args:
      output: the folder whose disk is looked at, there or not; "" for the present one.
    """
    yield python(sys.version_info[:3])
    yield processor(_cpu_flags(), len(os.sched_getaffinity(0)))
    yield memory(free_memory())
    yield disk("disk", output or ".", shutil.disk_usage(nearest(output)).free)
    yield temporary(os.environ.get("TMPDIR") or "/tmp")  # noqa: S108  only looked at
    yield open_files(*resource.getrlimit(resource.RLIMIT_NOFILE))


def python(version: tuple[int, ...]) -> Finding:
    """Whether TensorFlow, Beam and the rest have packages for this Python."""
    says = f"{'.'.join(map(str, version))}, {sys.executable}"
    fits = PYTHONS[0] <= version[:2] < PYTHONS[1]
    cure = "PYTHON=python3.11 ./launch.sh setup (3.11 to 3.13)"
    return Finding("Python", says, "" if fits else cure)


def processor(flags: set[str], cores: int) -> Finding:
    """Whether TensorFlow starts on this processor, and what speeds it up."""
    fast = [name for name in ("avx2", "avx512f", "amx_bf16") if name in flags]
    says = f"{cores} cores, {' '.join(fast) or 'no vectors known'}"
    if flags and "avx" not in flags:
        return Finding("processor", f"{says}: no AVX", "TensorFlow wants another one")
    return Finding("processor", says)


def memory(available: float) -> Finding:
    """Whether a small training fits."""
    says = f"{available / 1e9:.1f} GB available"
    cure = f"end other programs or give the container {MEMORY_GB:g} GB"
    return Finding("memory", says, "" if available >= MEMORY_GB * 1e9 else cure)


def disk(what: str, folder: str, free: float) -> Finding:
    """Whether there is room for a data set and a run."""
    says = f"{free / 1e9:.0f} GB free at {nearest(folder)}"
    variable = "TMPDIR" if what == "temporary files" else "--output"
    cure = f"make room, or {variable}=a larger disk"
    return Finding(what, says, "" if free >= DISK_GB * 1e9 else cure)


def temporary(folder: str) -> Finding:
    """Whether temporary files can be written."""
    what = "temporary files"
    try:
        with tempfile.TemporaryFile(dir=folder):
            return disk(what, folder, shutil.disk_usage(folder).free)
    except OSError as error:
        return Finding(what, f"{folder}: {error.strerror}", "TMPDIR=another folder")


def open_files(soft: int, hard: int) -> Finding:
    """Whether a process may open as many files as it will."""
    names = [
        "no limit" if n == resource.RLIM_INFINITY else str(n) for n in (soft, hard)
    ]
    says = f"{names[0]}, can be raised to {names[1]}"
    fits = soft == resource.RLIM_INFINITY or soft >= OPEN_FILES
    return Finding("open files", says, "" if fits else "ulimit -n 4096")


def nearest(folder: str) -> str:
    """A folder, or the nearest above it that is there."""
    path = pathlib.Path(folder).absolute()
    return str(next(p for p in (path, *path.parents) if os.path.isdir(p)))


def _cpu_flags() -> set[str]:
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    lines = (line for line in text.splitlines() if line.startswith("flags"))
    return set(next(lines, "").split())
