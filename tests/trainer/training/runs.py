"""Trainings on one device, and their weights."""

import numpy as np
import tensorflow as tf

from trainer.run import checkpoints, workdir
from trainer.training.loop import TrainOptions
from trainer.training.session import train

ONE = tf.distribute.OneDeviceStrategy("/cpu:0")


def run(config, data, folder, **options):
    return train(config, data, str(folder), ONE, TrainOptions(**options))


def weights_of(folder, step):
    inside = folder / workdir.CHECKPOINTS / checkpoints.name_of(step)
    reader = tf.train.load_checkpoint(str(inside / checkpoints.STATE))
    names = reader.get_variable_to_shape_map()
    return {
        name: reader.get_tensor(name)
        for name in names
        if any(part in name for part in ("network", "optimizer", "averaged", "step"))
    }


def assert_same_weights(one, other, step):
    first, second = weights_of(one, step), weights_of(other, step)
    assert first.keys() == second.keys() and len(first) > 20
    for name, value in first.items():
        np.testing.assert_array_equal(second[name], value, err_msg=name)
