"""A trained network out of a work directory."""

import keras
import ml_collections
import tensorflow as tf

from preprocess import files
from preprocess.errors import UserError
from trainer import workdir
from trainer.model import build_model


def restore_network(
    folder: str, config: ml_collections.ConfigDict
) -> tuple[keras.Model, int]:
    """The network with the weights of the newest checkpoint, in float32.

    Returns:
      The network and the step it was saved at.

    Raises:
      UserError: no checkpoint there.
    """
    checkpoints = files.join(folder, workdir.CHECKPOINTS)
    newest = tf.train.latest_checkpoint(checkpoints)
    if newest is None:
        raise UserError(f"{checkpoints}: no checkpoint; train to the first one")
    network = build_model(config.model, seed=config.seed)
    step = tf.Variable(0, dtype=tf.int64)
    checkpoint = tf.train.Checkpoint(network=network, step=step)
    status = checkpoint.restore(newest)
    status.assert_existing_objects_matched()
    status.expect_partial()  # the optimiser's state stays behind
    return network, int(step)
