"""What blocks leave for each other: whole, claimed by the living, and never a zero."""

import errno
import os
import threading
import time

import numpy as np
import pytest

from tests.dataset import ome_zarr
from tests.dataset.layouts import problems
from trainer.predict.blocks import scratch
from trainer.predict.blocks.scratch import DoneElsewhere, Scratch
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.images.formats import read_image
from unet_tfrecords.dataset.images.pages import Page
from unet_tfrecords.storage import files, locks

MADE_BY = {"of": "this"}


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(scratch, "RENEW_S", 0.1)
    monkeypatch.setattr(scratch, "LEASE_S", 0.6)
    monkeypatch.setattr(scratch, "ASK_S", 0.05)


def opened(tmp_path, made_by=MADE_BY, is_shared=True) -> Scratch:
    return Scratch(str(tmp_path / "a"), made_by, is_shared=is_shared)


def test_a_claim_lasts_as_long_as_its_process_lives(tmp_path, quick):
    """Also if the work takes several times as long as a claim that is not renewed."""
    done = []

    def work(number):
        time.sleep(2.0 if number == 0 else 0.0)
        done.append(number)

    threads = [
        threading.Thread(target=opened(tmp_path).each, args=("step", range(4), work))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [0, 1, 2, 3]


def test_what_a_process_that_is_gone_has_claimed_is_done_by_another(tmp_path, quick):
    first = opened(tmp_path)
    assert first._claim("step", 2, is_old=False)
    done = []
    opened(tmp_path).each("step", range(4), done.append)
    assert sorted(done) == [0, 1, 2, 3]


def test_all_that_open_a_folder_at_once_have_the_same(tmp_path):
    found, start = [], threading.Barrier(16)

    def open_it():
        start.wait()
        found.append(opened(tmp_path).run)

    threads = [threading.Thread(target=open_it) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16 and len(set(found)) == 1


def test_a_disk_without_second_names_will_do(tmp_path, monkeypatch):
    """As exFAT, on which a microscope's images travel."""

    def refused(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    assert opened(tmp_path).run == opened(tmp_path).run
    files.write_new(str(tmp_path / "b"), b"content")
    assert (tmp_path / "b").read_bytes() == b"content"
    with pytest.raises(FileExistsError):
        files.write_new(str(tmp_path / "b"), b"other")
    assert not list(tmp_path.glob(".unfinished*"))


def test_results_of_something_else_are_removed_or_refused(tmp_path):
    first = opened(tmp_path, is_shared=False)
    first.each("step", range(2), lambda number: number)
    again = opened(tmp_path, is_shared=False)
    assert again.results("step", 2, int) == [0, 1]
    assert "makes these outputs otherwise" in problems(
        opened, tmp_path, {"of": "that"}, is_shared=True
    )
    other = opened(tmp_path, {"of": "that"}, is_shared=False)
    done = []
    other.each("step", range(2), done.append)
    assert done == [0, 1]


def test_who_comes_late_sees_that_all_is_done(tmp_path):
    late, other = opened(tmp_path), opened(tmp_path)
    other.each("step", range(3), lambda number: number)
    other.remove()
    with pytest.raises(DoneElsewhere):
        late.each("step", range(3), lambda number: number)
    with pytest.raises(DoneElsewhere):
        late.result("step", 0, int)
    assert opened(tmp_path).run != late.run


def test_a_lost_chunk_is_an_error_and_not_all_0(tmp_path):
    made = opened(tmp_path)
    array = made.array("labels", (100, 100), np.int32, 64)
    array[:] = 0  # chunks of zeros are written, too
    assert not made.array("labels", (100, 100), np.int32, 64)[...].any()
    next((tmp_path / "a").rglob("c/1/0")).unlink()
    with pytest.raises(FileNotFoundError, match="no such chunk"):
        made.array("labels", (100, 100), np.int32, 64)[...]
    with pytest.raises(UserError, match="holds something else"):
        made.array("labels", (100, 90), np.int32, 64)


def test_a_cut_chunk_of_blosc_is_damaged(tmp_path):
    """Blosc itself reads on behind its end."""
    import numcodecs
    import zarr

    path = ome_zarr.write(tmp_path / "a.zarr", np.ones((64, 64), np.uint8))
    rng = np.random.default_rng(0).integers(0, 99, (64, 64), np.uint8)
    compressor = numcodecs.Blosc()
    array = zarr.create_array(
        str(path / "0"),
        data=rng,
        chunks=(32, 32),
        zarr_format=2,
        compressors=compressor,
        overwrite=True,
    )
    np.testing.assert_array_equal(read_image(Page(str(path)), 1)[..., 0], rng)
    assert array.chunks == (32, 32)
    chunk = next(p for p in (path / "0").rglob("*") if p.name in ("1.1", "1"))
    chunk = next(chunk.rglob("1")) if chunk.is_dir() else chunk
    chunk.write_bytes(chunk.read_bytes()[:40])
    assert "damaged (40 bytes" in problems(read_image, Page(str(path)), 1)


def test_who_shares_a_folder_keeps_those_out_who_do_not(tmp_path):
    with locks.shared(str(tmp_path)):
        with locks.shared(str(tmp_path)):
            assert "another job is writing" in problems(_alone, tmp_path)
        assert "another job is writing" in problems(_alone, tmp_path)
    with locks.exclusive(str(tmp_path)):
        with pytest.raises(UserError, match="another job is writing"):
            locks.shared(str(tmp_path)).__enter__()
    assert not list(tmp_path.iterdir())


def _alone(folder) -> None:
    with locks.exclusive(str(folder)):
        pass
