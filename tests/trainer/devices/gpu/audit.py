"""Builds steps, validations and exports as on GPUs, and prints a report of each.

    python -m tests.trainer.devices.gpu.audit '{"what": "step", "replicas": 2}' ...

with TensorFlow's CUDA wheel on PYTHONPATH; TF_CONFIG makes it a worker of a cluster.
Replicas are logical processors: in the graph that changes their names alone.
"""

import json
import os
import sys
from typing import NamedTuple

from trainer.devices.startup import starting

with starting():
    import tensorflow as tf

from configs import base
from tests.trainer.devices.gpu import placement
from trainer.devices import strategy
from trainer.inference.segmenter import Segmenter
from trainer.input import input_pipeline
from trainer.training import batch_size
from trainer.training.step import State, TrainingSteps
from trainer.training.validate import Validator

TILE, OUTPUT = 572, 388
GEOMETRY = input_pipeline.Geometry(TILE, OUTPUT, 4, 1, 2, 8, "raw", 10 / 255)


class Case(NamedTuple):
    """What to build; the values are the config's, or the export's."""

    what: str = "step"  # or validation, export
    precision: str = "float32"
    optimizer: str = "sgd"
    replicas: int = 1
    width: int = 4  # 64 is the paper's
    xla: bool = True
    accumulate: int = 1
    loss: str = "cross_entropy"
    signature: str = "serving_default"


def config_of(given: Case):
    """The paper's strategy, of the given width, with all that a step can have."""
    config = base.get_config()
    config.model.width = given.width
    config.train.optimizer = given.optimizer
    config.train.update({"accumulate": given.accumulate, "loss": given.loss})
    config.train.clip_norm = 1.0
    if given.optimizer != "sgd":
        config.train.ema = 0.99
        config.train.weight_decay = 0.01
    workers = strategy.read_cluster().size
    batch_size.settle(config.train, replicas=given.replicas * workers, fitting=2)
    return config


def devices_of(given: Case) -> tf.distribute.Strategy:
    """Logical processors, that sum as GPUs would."""
    if strategy.read_cluster().size > 1:
        return tf.distribute.MultiWorkerMirroredStrategy(
            communication_options=strategy.communication(True, "auto")
        )
    if given.replicas == 1:
        return tf.distribute.OneDeviceStrategy("/cpu:0")
    return tf.distribute.MirroredStrategy([f"/cpu:{i}" for i in range(given.replicas)])


def step(given: Case):
    """The graph of some steps."""
    config, devices = config_of(given), devices_of(given)
    with devices.scope():
        state = State(config, given.precision)
    steps = TrainingSteps(
        state, devices, GEOMETRY, [0.5, 2.0], config.train, xla=given.xla
    )

    def tiles(context: tf.distribute.InputContext) -> tf.data.Dataset:
        size = context.get_per_replica_batch_size(config.train.global_batch)
        tile = {
            "image": tf.zeros([size, TILE, TILE, 1], tf.uint8),
            "label": tf.zeros([size, OUTPUT, OUTPUT], tf.uint8),
            "weight": tf.zeros([size, OUTPUT, OUTPUT], tf.uint8),
            "mean": tf.zeros([size, 1]),
            "std": tf.ones([size, 1]),
        }
        return tf.data.Dataset.from_tensors(tile).repeat()

    batches = iter(devices.distribute_datasets_from_function(tiles))
    return steps.run.get_concrete_function(batches, tf.constant(1), tf.constant(False))


def validation(given: Case):
    """The graph that segments one frame of each replica's."""
    config, devices = config_of(given), devices_of(given)
    with devices.scope():
        state = State(config, given.precision)
    validator = Validator(state.averaged, devices, lambda: iter(()), config.model)
    image = tf.zeros([1, 520, 696, 1])
    if given.replicas > 1:
        image = devices.experimental_distribute_values_from_function(lambda _: image)
    return validator.segment_all.get_concrete_function(image)


def export(given: Case):
    """The graph of one of a SavedModel's signatures, with variables as for GPUs."""
    from trainer.export.signatures import SignatureSet
    from trainer.network.layers import with_variables
    from trainer.network.unet import build_model

    model = config_of(given).model
    network = build_model(model, precision=given.precision)
    segmenter = Segmenter(with_variables(network), depth=4, classes=2)
    served = SignatureSet(segmenter, GEOMETRY, [w.value for w in network.weights])
    return served.functions[given.signature].get_concrete_function()


def main() -> None:
    if not tf.test.is_built_with_cuda():
        sys.exit("this TensorFlow is not the CUDA wheel, and has no kernels for GPUs")
    cases = [Case(**json.loads(text)) for text in sys.argv[1:]]
    if max(case.replicas for case in cases) > 1:
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * 2,
        )
    build = {"step": step, "validation": validation, "export": export}
    for case in cases:
        graph = build[case.what](case).graph.as_graph_def(add_shapes=True)
        print(json.dumps(vars(placement.report(graph))), flush=True)
    os._exit(0)  # a worker would wait for the others here


if __name__ == "__main__":
    main()
