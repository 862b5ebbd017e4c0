"""Many requests, files and tiles: the campaign's own checks, on fewer of each."""

import psutil
import pytest

from campaigns import load

# So few moments hold more noise than the campaign's own, whose bound is a twentieth.
FLAT = 0.1


@pytest.fixture
def version(models):
    return str(models / "2")


def test_growth_is_seen():
    """A leak of 1 MB and half a file in each of 40 moments."""
    leaking = [load.Reading(n, 500 + n, 10 + n // 2) for n in range(40)]
    more, files = load.growth(leaking)
    assert more == pytest.approx(20 / 514.5) and files == 10
    still = [load.Reading(n, 500 + n % 3, 10) for n in range(40)]
    assert load.growth(still) == (pytest.approx(0, abs=0.003), 0)


def test_a_process_is_read():
    held = [open(__file__) for _ in range(5)]
    before = load.reading(psutil.Process(), 1)
    for file in held:
        file.close()
    assert before.files - load.reading(psutil.Process(), 1).files == 5
    assert before.megabytes > 100


@pytest.mark.long
def test_sixteen_threads_are_answered_as_one(version):
    more, files = load.growth(load.requests(version, 400))
    assert more < FLAT and files <= 0


@pytest.mark.long
def test_tiles_leave_nothing_behind(shards_folder):
    more, files = load.growth(load.tiles(shards_folder, 60_000))
    assert more < FLAT and files <= load.THREADS  # of shards that are being read


@pytest.mark.long
def test_files_leave_nothing_behind(version, tmp_path):
    more, files = load.growth(load.files(version, tmp_path, 500))
    assert more < FLAT and files <= 4  # images that are being read and written
