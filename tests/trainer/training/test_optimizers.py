"""Learning rates by step against their formulas, and updates against Keras'."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs import base
from trainer.network.unet import build_model
from trainer.training.losses import class_weights, tile_losses
from trainer.training.optimizers import (
    FIRST_SCALE,
    GROWTH_STEPS,
    Optimizer,
    highest_rate,
    make_schedule,
)
from trainer.training.train_settings import CHOICES, check_train_config


def tiny_model():
    model = base.get_config().model
    model.update({"depth": 2, "width": 2, "channels": 1, "classes": 2})
    return model


def train_part(**changes):
    train = base.get_config().train
    train.update({"steps": 100, "learning_rate": 0.1} | changes)
    return train


def rates(train, steps):
    schedule = make_schedule(train)
    return [float(schedule(step)) for step in steps]


def test_constant():
    assert rates(train_part(), (0, 50, 99)) == pytest.approx([0.1] * 3)


def test_warm_up_is_linear_and_reaches_the_highest():
    made = rates(train_part(warmup_steps=10), range(12))
    assert made == pytest.approx([0.01 * n for n in range(1, 11)] + [0.1, 0.1])


def test_cosine():
    made = rates(train_part(schedule="cosine", warmup_steps=20), (20, 40, 60, 99))
    expected = [0.05 * (1 + math.cos(math.pi * n / 80)) for n in (0, 20, 40, 79)]
    assert made == pytest.approx(expected, abs=1e-7)
    ended = rates(train_part(schedule="cosine", final_learning_rate=0.2), (100,))
    assert ended == pytest.approx([0.02])


def test_polynomial():
    train = train_part(schedule="polynomial", decay_power=2.0, final_learning_rate=0.1)
    expected = [0.09 * (1 - n / 100) ** 2 + 0.01 for n in (0, 50, 99)]
    assert rates(train, (0, 50, 99)) == pytest.approx(expected)


def test_the_rule_for_the_batch():
    rule = {"global_batch": 16, "reference_batch": 4}
    for name, factor in (("fixed", 1), ("linear", 4), ("sqrt", 2)):
        train = train_part(learning_rate_rule=name, **rule)
        assert highest_rate(train) == pytest.approx(0.1 * factor)
        assert rates(train, (5,)) == pytest.approx([0.1 * factor])


def moved(train) -> float:
    variable = keras.Variable([[1.0]], name="kernel")
    optimizer = Optimizer(train, [variable], scaled=False)
    for _ in range(2):
        optimizer.apply([tf.constant([[0.3]])], tf.constant(0.1))
    return float(variable.value[0, 0])


def loss_of(train) -> float:
    logits = tf.constant([[[[0.1, 0.4], [2.0, -1.0]]]])
    label = tf.constant([[[1, 0]]], tf.int64)
    flat = tf.zeros([1, 1, 2])
    return float(tile_losses(train.loss, logits, label, flat, tf.ones([2]))[0])


# What a choice changes, for those choices of which no two do the same.
EFFECTS = {
    "optimizer": moved,
    "schedule": lambda train: rates(train, (50,))[0],
    "loss": loss_of,
    "class_weights": lambda train: class_weights([1, 3], train.class_weights)[0],
}


@pytest.mark.parametrize("name", EFFECTS)
def test_every_choice_is_accepted_and_has_an_effect_of_its_own(name):
    found = set()
    for choice in CHOICES[name]:
        config = base.get_config()
        decay = 0.1 if choice == "adamw" else 0.0  # adam with decay is adamw
        config.train.update({"weight_decay": decay, "steps": 100, name: choice})
        check_train_config(config)
        found.add(round(EFFECTS[name](config.train), 6))
    assert len(found) == len(CHOICES[name])


# --- Updates -------------------------------------------------------------------------

RATE = 0.05


def weights():
    """A kernel and a bias, the same each time."""
    drawn = np.random.default_rng(1)
    shapes = {"kernel": (3, 4), "bias": (4,)}
    return [
        keras.Variable(drawn.normal(size=shape), dtype="float32", name=name)
        for name, shape in shapes.items()
    ]


def gradients(step):
    drawn = np.random.default_rng(step + 2)
    return [tf.constant(drawn.normal(size=v.shape), tf.float32) for v in weights()]


def updated(train, *, steps, keras_optimizer=None):
    """The weights after some steps, by our optimiser or by Keras'."""
    trained = weights()
    if keras_optimizer:
        keras_optimizer.exclude_from_weight_decay(var_names=["bias"])
    ours = None if keras_optimizer else Optimizer(train, trained, scaled=False)
    for step in range(steps):
        if ours:
            ours.apply(gradients(step), tf.constant(RATE))
        else:
            keras_optimizer.apply(gradients(step), trained)
    return [v.numpy() for v in trained]


@pytest.mark.parametrize("decay", (0.0, 0.1))
@pytest.mark.parametrize("clip", (0.0, 1.0))
@pytest.mark.parametrize("name", ("sgd", "adam", "adamw"))
def test_updates_are_those_of_keras(name, clip, decay):
    """Momentum, moments, their bias, decay of kernels alone, clipping by the norm."""
    train = train_part(optimizer=name, momentum=0.9, clip_norm=clip, weight_decay=decay)
    settings = {
        "learning_rate": RATE,
        "global_clipnorm": clip or None,
        "weight_decay": decay or (0.0 if name == "adamw" else None),
    }
    if name == "sgd":
        theirs = keras.optimizers.SGD(momentum=0.9, **settings)
    else:
        kinds = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW}
        theirs = kinds[name](**settings)
    ours = updated(train, steps=7)
    expected = updated(train, steps=7, keras_optimizer=theirs)
    for mine, their, start in zip(ours, expected, weights(), strict=True):
        np.testing.assert_allclose(mine, their, rtol=1e-5, atol=1e-7)
        assert np.abs(mine - start.numpy()).max() > 0.01


def test_a_scaled_loss_gives_the_same_updates():
    """The scale is taken out again, also of the norm that is returned and clipped."""
    train = train_part(optimizer="adam", clip_norm=1.0)
    results = []
    for scaled in (False, True):
        trained = weights()
        optimizer = Optimizer(train, trained, scaled=scaled)
        factor = optimizer.scale_loss(tf.constant(1.0))
        norm = optimizer.apply([g * factor for g in gradients(0)], tf.constant(RATE))
        results.append([float(norm), *[v.numpy() for v in trained]])
    for plain, with_scale in zip(*results, strict=True):
        np.testing.assert_allclose(with_scale, plain, rtol=1e-6)
    flat = np.concatenate([np.ravel(g) for g in gradients(0)])
    assert results[0][0] == pytest.approx(np.linalg.norm(flat), rel=1e-5)  # unclipped


def test_decay_shrinks_the_networks_kernels_and_no_biases():
    network = build_model(tiny_model(), seed=1)
    trained = network.trainable_variables
    for variable in trained:
        variable.assign(tf.ones_like(variable))  # biases start at 0
    before = [v.numpy() for v in trained]
    train = train_part(momentum=0.0, weight_decay=0.5)
    nothing = [tf.zeros_like(v) for v in trained]
    Optimizer(train, trained, scaled=False).apply(nothing, tf.constant(0.01))
    assert {v.path.rpartition("/")[2] for v in trained} == {"kernel", "bias"}
    for variable, start in zip(trained, before, strict=True):
        kept = 1.0 if variable.path.endswith("bias") else 1 - 0.01 * 0.5
        np.testing.assert_allclose(variable, kept * start, rtol=1e-5)


def test_infinite_gradients_change_nothing_but_the_scale():
    trained = weights()
    optimizer = Optimizer(train_part(optimizer="adam"), trained, scaled=True)
    first, second = gradients(0)
    for bad in (np.inf, np.nan):
        optimizer.apply([first * bad, second], tf.constant(RATE))
    for variable, start in zip(trained, weights(), strict=True):
        np.testing.assert_array_equal(variable, start)
    for slot in [slot for slots in optimizer.slots for slot in slots]:
        assert not slot.numpy().any()
    assert float(optimizer.scale) == FIRST_SCALE / 4
    assert int(optimizer.updates) == 0  # or Adam's next step would be off
    optimizer.apply([first, second], tf.constant(RATE))
    assert int(optimizer.updates) == 1 and int(optimizer.finite_steps) == 1


def test_the_scale_doubles_after_enough_finite_steps():
    optimizer = Optimizer(train_part(), weights(), scaled=True)
    optimizer.finite_steps.assign(GROWTH_STEPS - 1)
    optimizer.apply(gradients(0), tf.constant(RATE))
    assert float(optimizer.scale) == 2 * FIRST_SCALE
    assert int(optimizer.finite_steps) == 0


def test_the_scale_never_vanishes():
    """At 0 every gradient would be nothing over nothing."""
    optimizer = Optimizer(train_part(), weights(), scaled=True)
    optimizer.scale.assign(1.0)
    first, second = gradients(0)
    optimizer.apply([first * np.inf, second], tf.constant(RATE))
    assert float(optimizer.scale) == 1.0
