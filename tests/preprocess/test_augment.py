"""Deformations against SciPy's splines and NumPy's turns."""

import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from configs import base
from preprocess import augment


@pytest.fixture
def still():
    """Augmentation that changes nothing, to be loosened one by one."""
    config = base.get_config().data.augment
    config.elastic_sigma_px = config.rotation_deg = config.shift_px = 0.0
    config.contrast = config.brightness = config.gamma = 0.0
    config.flip = False
    return config


def warp(config, size=(64, 80), pad=20, seed=0):
    """Positions of one random deformation, mirrored surroundings included."""
    height, width = size
    drawn = augment.random_deformation(np.random.default_rng(seed), config, size)
    return drawn.positions((-pad, height + pad), (-pad, width + pad))


def warp_image(image, positions):
    """Resamples without a change of grey values."""
    same = np.arange(65536, dtype=np.float32)[:, None].repeat(image.shape[2], axis=1)
    return augment.warp_image(image, positions, same)


@pytest.mark.parametrize("nodes", [2, 3, 4, 9])
def test_spline_basis_is_scipys_natural_spline(nodes):
    rng = np.random.default_rng(nodes)
    values, size = rng.normal(size=nodes), 101
    spline = CubicSpline(np.linspace(0, size - 1, nodes), values, bc_type="natural")
    expected = spline(np.clip(np.arange(-10, size + 10), 0, size - 1))
    basis = augment.spline_basis(nodes, -10, size + 10, size)
    np.testing.assert_allclose(basis @ values, expected, atol=1e-5)


def test_displacements_have_the_papers_deviation():
    config = base.get_config().data.augment
    config.rotation_deg = config.shift_px = 0.0
    config.flip = False
    # At a node the spline takes the node's own displacement.
    moved = [warp(config, (65, 81), seed=seed).rows[52, 60] - 32 for seed in range(400)]
    assert np.std(moved) == pytest.approx(10, rel=0.15)
    assert abs(np.mean(moved)) < 2


def test_no_change_is_the_mirrored_frame(still):
    image = np.random.default_rng(1).integers(0, 255, (64, 80, 1)).astype(np.uint8)
    warped = warp_image(image, warp(still))
    expected = np.pad(image[..., 0], 20, mode="reflect")
    np.testing.assert_allclose(warped[..., 0], expected, atol=1e-3)


def test_flips_are_numpys(still):
    still.flip = True
    labels = np.random.default_rng(1).integers(0, 9, (33, 33)).astype(np.int32)
    wanted = [labels, labels[::-1], labels[:, ::-1], labels[::-1, ::-1]]
    seen = set()
    for seed in range(40):
        flipped = augment.warp_labels(labels, warp(still, (33, 33), 0, seed))
        matches = [i for i, w in enumerate(wanted) if (flipped == w).all()]
        assert len(matches) == 1
        seen.update(matches)
    assert seen == {0, 1, 2, 3}


def test_rotation_turns_about_the_centre(still):
    still.rotation_deg = 180.0
    angles = []
    for seed in range(50):
        moved = warp(still, (65, 65), 0, seed)
        assert moved.rows[32, 32] == pytest.approx(32, abs=1e-3)
        assert moved.columns[32, 32] == pytest.approx(32, abs=1e-3)
        step = moved.rows[32, 33] - 32, moved.columns[32, 33] - 32
        assert np.hypot(*step) == pytest.approx(1, abs=1e-3)
        angles.append(np.degrees(np.arctan2(*step)))
    assert min(angles) < -120 and max(angles) > 120


def test_zoom_makes_objects_larger_or_smaller_about_the_centre(still):
    still.zoom = 0.35
    factors = []
    for seed in range(60):
        moved = warp(still, (65, 81), 0, seed)
        assert moved.rows[32, 40] == pytest.approx(32, abs=1e-3)
        assert moved.columns[32, 40] == pytest.approx(40, abs=1e-3)
        steps = moved.rows[33, 40] - 32, moved.columns[32, 41] - 40
        assert steps[0] == pytest.approx(steps[1], rel=1e-3)
        factors.append(1 / steps[0])
    assert 0.7 < min(factors) < 0.75 and 1.35 < max(factors) < 1.42


def test_without_zoom_all_else_is_drawn_as_before(still):
    """So that data sets keep their bytes."""
    rng, other = np.random.default_rng(3), np.random.default_rng(3)
    plain = augment.random_deformation(rng, still, (64, 80))
    other.normal(0, 1, (2, still.elastic_grid, still.elastic_grid))
    other.uniform(), other.uniform(size=2)
    assert plain.zoom == 1 and rng.uniform() == other.uniform()


def test_labels_are_only_looked_up():
    config = base.get_config().data.augment
    labels = np.random.default_rng(2).choice([0, 7, 60001], (64, 80)).astype(np.int32)
    warped = augment.warp_labels(labels, warp(config))
    assert warped.dtype == np.int32
    assert set(np.unique(warped)) == {0, 7, 60001}


def test_image_and_labels_move_together(still):
    still.elastic_sigma_px, still.rotation_deg, still.flip = 10.0, 180.0, True
    rows, columns = np.mgrid[:64, :80]
    disc = (np.hypot(rows - 30, columns - 45) < 15).astype(np.uint8)
    moved = warp(still, seed=5)
    image = warp_image(disc[..., None] * 200, moved)[..., 0]
    label = augment.warp_labels(disc, moved)
    assert ((image > 100) != label).mean() < 0.01


@pytest.mark.parametrize("size", [(30, 200), (100, 400), (256, 1024), (25, 25)])
def test_image_and_labels_agree_however_often_they_are_mirrored(size):
    """Smooth stripes, whose label is known from each resampled pixel's value."""
    config = base.get_config().data.augment
    rows, columns = np.mgrid[: size[0], : size[1]]
    wave = np.sin(rows / 4.0) + np.sin(columns / 4.0)
    image = (100 * wave[..., None] + 300).astype(np.uint16)
    label = (wave > 0).astype(np.uint8)
    for seed in range(4):
        moved = warp(config, size, pad=92, seed=seed)
        resampled = warp_image(image, moved)[..., 0]
        looked_up = augment.warp_labels(label, moved)
        far = np.abs(resampled - 300) > 40  # further than a pixel from an edge
        assert far.mean() > 0.5
        assert ((resampled > 300) == looked_up)[far].all()


def test_fold_is_mirroring():
    positions = np.arange(-300, 300)
    for size in (1, 2, 3, 10, 77):
        expected = np.pad(np.arange(size), 300, mode="reflect")[:600]
        np.testing.assert_array_equal(
            augment.fold(positions.astype(float), size), expected
        )


@pytest.mark.parametrize("size", [(64, 80), (30, 300), (5000, 40)])
def test_any_window_of_a_deformation_is_that_part_of_the_whole(size):
    """Bit for bit: coordinates, pixels and labels, from large sources too."""
    config = base.get_config().data.augment
    rng = np.random.default_rng(9)
    image = rng.integers(0, 60000, (*size, 2)).astype(np.uint16)
    labels = rng.integers(0, 90000, size).astype(np.int32)
    drawn = augment.random_deformation(rng, config, size)
    rows, columns = (-20, size[0] + 20), (-20, size[1] + 20)
    whole = drawn.positions(rows, columns)
    pixels, looked_up = warp_image(image, whole), augment.warp_labels(labels, whole)
    for _ in range(6):
        top, bottom = np.sort(rng.choice(np.arange(*rows), 2, replace=False))
        left, right = np.sort(rng.choice(np.arange(*columns), 2, replace=False))
        part = drawn.positions((top, bottom), (left, right))
        window = np.s_[top + 20 : bottom + 20, left + 20 : right + 20]
        np.testing.assert_array_equal(part.rows, whole.rows[window])
        np.testing.assert_array_equal(part.columns, whole.columns[window])
        np.testing.assert_array_equal(warp_image(image, part), pixels[window])
        found = augment.warp_labels(labels, part)
        np.testing.assert_array_equal(found, looked_up[window])


def test_grey_values_change_around_the_mean(still):
    mean, std = np.array([100.0, 90.0]), np.array([20.0, 10.0])
    values = np.arange(256)[:, None]
    rng = np.random.default_rng(0)
    same = augment.random_grey(rng, still, mean=mean, std=std).table(255)
    assert same.dtype == np.float32
    np.testing.assert_allclose(same, values.repeat(2, axis=1), atol=1e-3)
    still.contrast, still.brightness = 0.3, 0.3
    changed = augment.random_grey(rng, still, mean=mean, std=std).table(255)
    for channel in range(2):  # linear in z, within the config's bounds
        z = (values[:, 0] - mean[channel]) / std[channel]
        shown = (changed[:, channel] - mean[channel]) / std[channel]
        gain, offset = np.polyfit(z, shown, 1)
        np.testing.assert_allclose(gain * z + offset, shown, atol=1e-3)
        assert np.exp(-0.3) <= gain <= np.exp(0.3)
        assert abs(offset) <= 0.3


def test_gamma_bends_around_the_mean(still):
    still.gamma = 0.5
    drawn = augment.random_grey(
        np.random.default_rng(4), still, mean=np.array([100.0]), std=np.array([10.0])
    )
    fixed = drawn.changed(np.array([[90.0], [100.0], [110.0]]))[:, 0]
    np.testing.assert_allclose(fixed, [90, 100, 110], atol=1e-4)
    power = drawn.gamma[0]
    assert 0.6 < power < 1.7
    further = drawn.changed(np.array([[60.0], [140.0]]))[:, 0]
    np.testing.assert_allclose(further, [100 - 10 * 4**power, 100 + 10 * 4**power])
