"""Learning rates by step, against their formulas; rules for the batch."""

import math

import pytest

from configs import base
from trainer.check import check_train_config
from trainer.optimizers import highest_rate, make_schedule


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


def test_every_choice_of_the_config_is_accepted():
    from trainer.check import CHOICES

    for name, choices in CHOICES.items():
        for choice in choices:
            config = base.get_config()
            config.train.weight_decay = 0.01
            config.train[name] = choice
            check_train_config(config)
