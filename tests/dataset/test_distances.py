"""Distances, against SciPy's, and the same whatever OpenCV does inside."""

import cv2
import numpy as np
import pytest
from scipy import ndimage

from unet_tfrecords.dataset.regions import FAR, distances_to


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
