"""Memory stays within its bounds: measured, by the benchmark that a user can run."""

import re

import pytest

from preprocess import draw
from tests.commands import PYTHON, process


def benchmark(*arguments) -> str:
    return process(PYTHON, "benchmarks/memory.py", *arguments, check=True).stdout


@pytest.mark.long
def test_a_frame_of_10000_pixels_goes_through_within_1_gb():
    """A quarter of the benchmark's own, which is held to 4 GB."""
    [megabytes] = re.findall(r"peak (\d+) MB", benchmark("--huge", "--edge=10000"))
    assert int(megabytes) < 1024


@pytest.mark.long
def test_memory_does_not_grow_with_the_work(tmp_path):
    draw.write_cells(str(tmp_path / "c"), size=512, num_frames=4, seed=1)
    rows = benchmark(f"--input={tmp_path / 'c'}").splitlines()[1:]
    peaks = {" ".join(row.split()[:2]): float(row.split()[-1]) for row in rows}
    assert len(peaks) == 7
    for what in ("augmentations", "frames", "shards"):
        assert peaks[f"{what} 4"] < 1.1 * peaks[f"{what} 1"]
    assert peaks["augmentations 16"] < 1.1 * peaks["augmentations 1"]
