"""A trained network out of a work directory."""

import keras
import ml_collections
import tensorflow as tf

from trainer.devices import tensorflow_files
from trainer.network.unet import build_model
from trainer.run import checkpoints, workdir
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.targets import planes_of
from unet_tfrecords.storage import files


def restore_network(
    folder: str,
    config: ml_collections.ConfigDict,
    which: str = "best",
    precision: str = "float32",
) -> tuple[keras.Model, int]:
    """The network of a checkpoint; of weights averaged, their average.

    Args:
      folder: the work directory.
      config: the run's.
      which: best by config.train.best_metric (newest where nothing was validated),
        newest, or a step.
      precision: a Keras dtype policy; weights and logits are float32 in all.

    Returns:
      The network and the step it was saved at.

    Raises:
      UserError: no such checkpoint there.
    """
    tensorflow_files.check_name(folder)
    inside = files.join(folder, workdir.CHECKPOINTS)
    network = build_model(
        config.model,
        planes=planes_of(config.data),
        precision=precision,
        seed=config.seed,
    )
    there = checkpoints.complete_steps(inside)
    while True:
        try:
            return network, _restore(network, inside, which)
        except (UserError, OSError, tf.errors.OpError):
            before, there = there, checkpoints.complete_steps(inside)
            if there == before:
                raise
            # A training that goes on has removed what was chosen: there are newer ones.


def _restore(network: keras.Model, inside: str, which: str) -> int:
    """Reads a checkpoint into a network; its step."""
    step = checkpoints.chosen(inside, which).step
    status = checkpoints.restore(tf.train.Checkpoint(averaged=network), inside, step)
    status.assert_existing_objects_matched()
    status.expect_partial()  # the optimiser's state stays behind
    return step
