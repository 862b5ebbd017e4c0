"""Loss and scores against sums and counts by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.scores.pixels import pixel_scores
from trainer.training import losses
from trainer.training.losses import (
    class_weights,
    soft_dice_loss,
    tile_losses,
    weighted_cross_entropy,
)
from unet_tfrecords.dataset.records import UNLABELLED

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(2, 7, 9, 3)).astype(np.float32)
LABEL = RNG.choice([0, 1, 2, UNLABELLED], (2, 7, 9)).astype(np.int64)
BORDER = RNG.uniform(0, 10, (2, 7, 9)).astype(np.float32)
WEIGHTS = np.array([0.5, 1.0, 3.0], np.float32)


def test_loss_is_the_papers_sum():
    expected = np.zeros(2)
    for b, i, j in np.ndindex(LABEL.shape):
        if LABEL[b, i, j] == UNLABELLED:
            continue
        p = np.exp(LOGITS[b, i, j].astype(np.float64))
        k = LABEL[b, i, j]
        weight = WEIGHTS[k] + BORDER[b, i, j]
        expected[b] -= weight * np.log(p[k] / p.sum()) / (7 * 9)
    loss = weighted_cross_entropy(LOGITS, LABEL, BORDER, tf.constant(WEIGHTS))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_unlabelled_pixels_have_no_gradient():
    logits = tf.Variable(LOGITS)
    with tf.GradientTape() as tape:
        loss = weighted_cross_entropy(logits, LABEL, BORDER, tf.constant(WEIGHTS))
        loss = tf.reduce_sum(loss)
    gradient = tf.convert_to_tensor(tape.gradient(loss, logits)).numpy()
    assert (gradient[LABEL == UNLABELLED] == 0).all()
    assert (np.abs(gradient[LABEL != UNLABELLED]).max(-1) > 0).all()


def test_huge_logits_stay_finite():
    logits = LOGITS * 1e4
    loss = weighted_cross_entropy(logits, LABEL, BORDER, tf.constant(WEIGHTS))
    assert np.isfinite(loss).all()


def test_dice_by_hand():
    expected = np.zeros(2)
    for b in range(2):
        known = LABEL[b] != UNLABELLED
        p = np.exp(LOGITS[b].astype(np.float64))
        p = (p / p.sum(-1, keepdims=True))[known]
        truth = LABEL[b][known]
        dice = [
            (2 * p[truth == k, k].sum() + 1) / (p[:, k].sum() + (truth == k).sum() + 1)
            for k in range(3)
        ]
        expected[b] = 1 - np.mean(dice)
    np.testing.assert_allclose(soft_dice_loss(LOGITS, LABEL), expected, rtol=1e-5)


def test_dice_is_safe_in_half_precision_and_without_labels():
    """A tile of the paper's size: 150,000 pixels are more than float16 can count."""
    logits = tf.Variable(tf.fill([1, 388, 388, 2], tf.constant(60000.0, tf.float16)))
    label = np.zeros((1, 388, 388), np.int32)
    for labels in (label, label + 1, np.full_like(label, UNLABELLED)):
        with tf.GradientTape() as tape:
            loss = soft_dice_loss(logits, labels)
        assert np.isfinite(loss).all() and 0 <= float(loss[0]) <= 1
        assert np.isfinite(tape.gradient(loss, logits)).all()
    assert float(soft_dice_loss(logits, np.full_like(label, UNLABELLED))[0]) == 0


def test_perfect_prediction_has_no_dice_loss():
    label = np.array([[[0, 1], [1, 1]]], np.int32)
    logits = tf.one_hot(label, 3) * 100.0
    assert float(soft_dice_loss(logits, label)[0]) == pytest.approx(0, abs=1e-6)


def test_the_sum_is_the_sum():
    parts = [
        tile_losses(kind, LOGITS, LABEL, BORDER, tf.constant(WEIGHTS))
        for kind in ("cross_entropy", "dice", "cross_entropy+dice")
    ]
    np.testing.assert_allclose(parts[0] + parts[1], parts[2], rtol=1e-6)


def test_balanced_weights_give_each_class_the_same_say():
    pixels = [700, 200, 0, 100]
    weights = class_weights(pixels, "balanced")
    shares = [w * n for w, n in zip(weights, pixels, strict=True)]
    assert shares[0] == pytest.approx(shares[1]) == pytest.approx(shares[3])
    assert sum(shares) == pytest.approx(sum(pixels))
    assert weights[2] == 0
    assert class_weights(pixels, "none") == [1.0] * 4


def test_scores_of_nothing_are_none():
    scores = pixel_scores(np.zeros((2, 2), np.int64))
    assert scores["mean_iou"] is None and scores["pixel_error"] is None


def test_planes_cost_smooth_l1_where_labelled():
    rng = np.random.default_rng(3)
    outputs = rng.uniform(-2, 3, (3, 8, 9, 2)).astype(np.float32)
    planes = rng.integers(0, 256, (3, 8, 9, 2)).astype(np.uint8)
    label = rng.choice([0, 1, 255], (3, 8, 9))
    found = losses.plane_losses(*map(tf.constant, (outputs, planes, label)), 10.0)
    each = keras.losses.huber(planes[..., None] / 255, outputs[..., None], delta=1.0)
    each = np.asarray(each) * (label != 255)[..., None]
    expected = 10 * each.mean((1, 2)).sum(-1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_loss_of_a_plane_of_probabilities_is_kerass():
    rng = np.random.default_rng(2)
    logits = rng.uniform(-4, 4, (3, 8, 9, 1)).astype(np.float32)
    planes = rng.choice([0, 255], (3, 8, 9, 1)).astype(np.uint8)
    label = rng.choice([0, 1, 255], (3, 8, 9))
    found = losses.plane_losses(*map(tf.constant, (logits, planes, label)), 0.5)
    each = keras.losses.binary_crossentropy(planes / 255, logits, from_logits=True)
    each = np.asarray(each) * (label != 255)
    expected = 0.5 * each.mean((1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
