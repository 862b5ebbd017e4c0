"""How much memory is free, without any library: doctor looks before there are some."""

import contextlib
import math
import pathlib

MEMINFO, CGROUP = "/proc/meminfo", "/sys/fs/cgroup"


def free_memory() -> float:
    """Bytes that can be had without swapping; infinity where nobody says.

    >>> free_memory() > 0
    True
    """
    free = math.inf
    with contextlib.suppress(OSError, ValueError, KeyError):
        free = int(_table(MEMINFO)["MemAvailable:"]) * 1024
    # A container's, where it has its own.
    with contextlib.suppress(OSError, ValueError, KeyError):
        most = int(pathlib.Path(CGROUP, "memory.max").read_text())
        used = _table(f"{CGROUP}/memory.stat")
        # Not memory.current, which counts the files that the system keeps meanwhile.
        free = min(free, most - int(used["anon"]) - int(used["shmem"]))
    with contextlib.suppress(OSError, ValueError):  # cgroups of version 1
        path = pathlib.Path(CGROUP, "memory/memory.limit_in_bytes")
        free = min(free, int(path.read_text()))
    return free


def _table(path: str) -> dict[str, str]:
    """Numbers by the first word of their line."""
    return dict(
        line.split()[:2] for line in pathlib.Path(path).read_text().splitlines()
    )
