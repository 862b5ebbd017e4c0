"""Which images predict takes of OME-Zarrs, and when it takes them again."""

import os

import numpy as np
import pytest

from tests.dataset import ome_zarr
from tests.dataset.layouts import problems
from trainer.predict.inputs import find_jobs, with_neighbours
from trainer.predict.prediction_record import PredictionRecord

IMAGE = np.random.default_rng(0).integers(1, 200, (2, 3, 16, 16), np.uint8)


def names(source: object, output: object) -> list[str]:
    jobs, found = find_jobs(str(source), str(output))
    assert not found
    return [job.name for job in jobs]


def test_outputs_are_named_after_the_folder_however_it_is_given(tmp_path):
    path = ome_zarr.write(tmp_path / "in/a.zarr", IMAGE[0, 0])
    ome_zarr.write(tmp_path / "in/B.ZARR", IMAGE[0, 0])
    for source in (path, f"{path}/", f"{tmp_path}/in/*.zarr", f"{tmp_path}/in/*.zarr/"):
        assert names(source, tmp_path / "out") == ["a"]
    assert names(tmp_path / "in", tmp_path / "out") == ["B", "a"]
    assert names(f"{tmp_path}/in/*", tmp_path / "out") == ["B", "a"]


def test_what_is_inside_an_image_is_named(tmp_path):
    path = ome_zarr.write(tmp_path / "a.zarr", IMAGE[0, 0])
    line = problems(find_jobs, str(path / "0"), str(tmp_path / "out"))
    assert f"is inside {path}; give that folder" in line
    for output in (path, path / "out"):
        line = problems(find_jobs, str(path), str(output))
        assert f"is inside the image {path}" in line


def test_neighbours_are_of_the_same_time(tmp_path):
    path = ome_zarr.write(tmp_path / "a.zarr", IMAGE, "tzyx")
    jobs, _ = find_jobs(str(path), str(tmp_path / "out"))
    made, alone = with_neighbours(jobs, (-1, 1))
    beside = [[page.number for page in job.neighbours] for job in made]
    assert beside == [[0, 1], [0, 2], [1, 2], [3, 4], [3, 5], [4, 5]]
    assert not alone


def test_neighbours_may_be_images_of_a_folder(tmp_path):
    for name in range(3):
        ome_zarr.write(tmp_path / f"in/{name}.zarr", IMAGE[0, 0], levels=2)
    jobs, _ = find_jobs(str(tmp_path / "in"), str(tmp_path / "out"), level=1)
    made, alone = with_neighbours(jobs, (1,))
    assert not alone
    beside = [job.neighbours[0] for job in made]
    assert [page.path[-6:] for page in beside] == ["1.zarr", "2.zarr", "2.zarr"]
    assert {page.level for page in beside} == {1}


@pytest.mark.parametrize("change", ["chunk removed", "chunk older", "fill value"])
def test_changed_folders_are_other_images(tmp_path, change):
    path = ome_zarr.write(tmp_path / "a.zarr", IMAGE[0, 0], chunks=8)

    def note():
        [job], _ = find_jobs(str(path), str(tmp_path / "out"))
        record = PredictionRecord(str(tmp_path / "out"), {}, overwrite=False)
        return record.note_of(job)

    before = note()
    assert note() == before
    chunk = path / "0/1.1"
    if change == "chunk removed":
        chunk.unlink()
    elif change == "chunk older":
        chunk.write_bytes(chunk.read_bytes() + b"0")
        os.utime(chunk, (1, 1))
    else:
        os.utime(path / "0/.zarray", (2e9, 2e9))
    assert note() != before
