"""Distances, against SciPy's, and the same whatever OpenCV does inside."""

import cv2
import numpy as np
import pytest
from scipy import ndimage

from unet_tfrecords.dataset.regions import FAR, away_from_edge, distances_to


@pytest.mark.parametrize("edge", [61, 96, 128])
def test_distances_are_exact_and_the_same_each_time(edge):
    rng = np.random.default_rng(edge)
    mask = rng.random((edge, edge)) < 0.01
    exact = ndimage.distance_transform_edt(~mask).astype(np.float32)
    threads = cv2.getNumThreads()
    try:
        for number in (1, 2, 3, 4):
            cv2.setNumThreads(number)
            np.testing.assert_array_equal(distances_to(mask), exact)
    finally:
        cv2.setNumThreads(threads)


def test_an_empty_mask_is_far_away():
    found = distances_to(np.zeros((80, 80), bool))
    assert (found == np.float32(FAR)).all()


def test_cells_within_the_edge_are_those_whose_box_is(random_cells):
    """Left out: entirely in one of the four strips, or in several of them."""
    cells = random_cells(2, (150, 130), count=40)
    assert away_from_edge(cells, 0) is cells
    for edge_px in (1, 12, 30, 75, 80):
        found = away_from_edge(cells, edge_px)
        rows, columns = np.indices(cells.shape)
        inside = (rows >= edge_px) & (rows < 150 - edge_px)
        inside &= (columns >= edge_px) & (columns < 130 - edge_px)
        for name in range(1, cells.max() + 1):
            own = cells == name
            kept = (own & inside).any()
            np.testing.assert_array_equal(found == name, own & kept)
        assert found.dtype == cells.dtype


@pytest.mark.parametrize("turns", range(4))
def test_a_cell_counts_from_its_first_pixel_beyond_the_edge(turns):
    cells = np.zeros((40, 40), np.int32)
    cells[5:10, 25:29] = 1  # its last row is the strip's last of 10 px
    cells[5:11, 15:19] = 2  # a row further
    found = away_from_edge(np.rot90(cells, turns), 10)
    np.testing.assert_array_equal(found, np.rot90(np.where(cells == 2, 2, 0), turns))
