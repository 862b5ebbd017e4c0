"""The plan and the splits: functions of identity alone."""

import collections
import itertools
import random

import ml_collections
import pytest

from configs import base
from preprocess import plan
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset import splits
from unet_tfrecords.dataset.images.frames import Frame
from unet_tfrecords.dataset.images.pages import Page
from unet_tfrecords.dataset.seeds import identity_seed


def frames(count: int, sequences=("01",)) -> list[Frame]:
    return [
        Frame("set", sequence, f"t{i:03d}", "ctc", Page(f"{sequence}/{i}.tif"))
        for sequence in sequences
        for i in range(count)
    ]


def planned(given, augmentations=5, num_shards=4, seed=1):
    frames = plan.plan_frames(
        given, augmentations=augmentations, num_shards=num_shards, seed=seed
    )
    return [unit for each in frames for unit in each.units()]


def test_plan_does_not_depend_on_order():
    given = frames(17)
    shuffled = random.Random(0).sample(given, len(given))
    assert set(planned(given)) == set(planned(shuffled))
    units = planned(given)
    assert plan.in_order(units, 1) == plan.in_order(reversed(units), 1)


@pytest.mark.parametrize(
    "count, augmentations, shards",
    [(17, 5, 4), (3, 2, 16), (1, 1, 1), (40, 8, 8), (500, 20, 16), (0, 5, 4)],
)
def test_every_unit_once_in_even_shards(count, augmentations, shards):
    units = planned(frames(count), augmentations, shards)
    assert len({unit.key for unit in units}) == count * augmentations
    sizes = collections.Counter(unit.shard for unit in units)
    assert set(sizes) == set(range(min(shards, count * augmentations)))
    if units:
        together = plan.units_together(len(units), shards)
        assert max(sizes.values()) - min(sizes.values()) <= together
        assert max(sizes.values()) <= 1.2 * min(sizes.values()) or together == 1
        assert {unit.num_shards for unit in units} == {len(sizes)}


def test_a_shard_takes_the_units_of_a_frame_in_a_row():
    units = planned(frames(60), augmentations=20, num_shards=5)
    orders = []
    for shard in range(5):
        own = plan.in_order([u for u in units if u.shard == shard], 1)
        names = [unit.frame.name for unit in own]
        runs = [name for name, _ in itertools.groupby(names)]
        assert len(runs) == len(set(runs))
        orders.append(runs)
    assert len({tuple(order[:5]) for order in orders}) == 5


def test_seeds_differ_by_identity_and_base_seed():
    keys = [unit.key for unit in planned(frames(10))]
    seeds = {identity_seed(key, base) for key in keys for base in (1, 2)}
    assert len(seeds) == 2 * len(keys)
    # The value itself is part of the contract: data made before stays as it is.
    assert identity_seed("HeLa/01/t012/a03", 1) == 5472924965545942678


def test_another_seed_shuffles_differently():
    order = [
        [u.key for u in plan.in_order(planned(frames(9), seed=s), s)] for s in (1, 2)
    ]
    assert sorted(order[0]) == sorted(order[1]) and order[0] != order[1]


def split_config(**changes) -> ml_collections.ConfigDict:
    split = base.get_config().data.split
    split.update(changes)
    return split


def names(assigned, split):
    return [f.key for f in assigned if f.split == split]


def test_blocks_are_contiguous_in_each_sequence():
    given = frames(20, ("01", "02"))
    assigned = splits.assign_splits(given, split_config(validation=0.15, test=0.25))
    for start in (0, 20):
        order = [frame.split for frame in assigned[start : start + 20]]
        assert order == ["train"] * 12 + ["validation"] * 3 + ["test"] * 5


def test_sequences_are_whole():
    given = frames(4, ("01", "02", "03"))
    changes = dict(
        method="sequence", validation_sequences=("03",), test_sequences=("02",)
    )
    assigned = splits.assign_splits(given, split_config(**changes))
    for split, sequence in {"train": "01", "test": "02", "validation": "03"}.items():
        assert names(assigned, split) == [f"set/{sequence}/t{i:03d}" for i in range(4)]


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(method="random"), "none of block, sequence, list, fold"),
        (dict(method="sequence", test_sequences=("07",)), "names sequence 07"),
        (dict(method="list", test_frames=("01/t9",)), "names frame 01/t9"),
        (
            dict(
                method="list", test_frames=("01/t001",), validation_frames=("01/t001",)
            ),
            "01/t001 is in two splits",
        ),
        (dict(method="fold", fold=5), "fold=5 of folds=5"),
        (dict(method="fold", folds=6), "folds=6: a sequence has 5 frames"),
        (dict(method="sequence", test_sequences=("01",)), "none to train on"),
    ],
)
def test_impossible_splits_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        splits.assign_splits(frames(5), split_config(**changes))


def test_listed_frames_go_where_they_are_listed():
    changes = dict(validation_frames=("02/t001",), test_frames=("01/t003", "02/t000"))
    assigned = splits.assign_splits(
        frames(5, ("01", "02")), split_config(method="list", **changes)
    )
    assert names(assigned, "validation") == ["set/02/t001"]
    assert names(assigned, "test") == ["set/01/t003", "set/02/t000"]
    assert len(names(assigned, "train")) == 7


def test_folds_test_every_frame_once_in_contiguous_blocks():
    given = frames(13, ("01", "02"))
    tested = []
    for fold in range(5):
        changes = dict(method="fold", folds=5, fold=fold)
        assigned = splits.assign_splits(given, split_config(**changes))
        for sequence in ("01", "02"):
            roles = [f.split for f in assigned if f.sequence == sequence]
            for role in ("test", "validation"):
                where = [i for i, r in enumerate(roles) if r == role]
                assert where == list(range(where[0], where[-1] + 1))
                assert len(where) in (2, 3)
        tested += names(assigned, "test")
    assert sorted(tested) == sorted(frame.key for frame in given)


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_frames_are_refused(count):
    with pytest.raises(UserError, match=f"{count} frame"):
        splits.assign_splits(frames(count), split_config())
