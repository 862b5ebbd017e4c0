"""One training step on all replicas: what changes, and how.

Shapes: B a replica's tiles, T tile pixels, O output pixels, C channels.
"""

from collections.abc import Callable
from typing import NamedTuple

import ml_collections
import tensorflow as tf

from trainer import input_pipeline
from trainer.dropout import TileSeeds
from trainer.graphs import graph_function
from trainer.losses import tile_losses
from trainer.model import build_model
from trainer.optimizers import make_optimizer

MOST_TILES = 2**20  # a step, to tell the seeds of one step from those of the next


class State(tf.Module):
    """All that training changes: what a checkpoint holds."""

    def __init__(self, config: ml_collections.ConfigDict, precision: str):
        super().__init__()
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.tile_seeds = TileSeeds()
        model, seed = config.model, config.seed
        self.network = build_model(
            model, precision=precision, seed=seed, tile_seeds=self.tile_seeds
        )
        self.ema = config.train.ema
        # The network that is validated and exported.
        self.averaged = (
            build_model(model, precision=precision, seed=seed)
            if self.ema
            else self.network
        )
        self.optimizer = make_optimizer(config.train, precision, self.step)
        self.optimizer.build(self.network.trainable_variables)

    def checkpoint(self) -> tf.train.Checkpoint:
        """What is saved; `averaged` is `network` itself where there is no average."""
        return tf.train.Checkpoint(
            network=self.network,
            averaged=self.averaged,
            optimizer=self.optimizer,
            step=self.step,
        )

    def update_average(self, strategy: tf.distribute.Strategy) -> None:
        """Moves the average towards the weights, faster in the beginning."""
        if not self.ema:
            return
        step = tf.cast(self.step, tf.float32)
        kept = tf.minimum(self.ema, (1 + step) / (10 + step))

        def move(average, weight):
            average.assign(kept * average + (1 - kept) * weight)

        pairs = zip(self.averaged.weights, self.network.weights, strict=True)
        for average, weight in pairs:
            strategy.extended.update(average.value, move, args=(weight.value,))


class Made(NamedTuple):
    """What n steps gave: the losses [n], the gradients' norms [n], stops asked for."""

    losses: tf.Tensor
    norms: tf.Tensor
    stops: tf.Tensor


def make_gradients(
    state: State,
    geometry: input_pipeline.Geometry,
    *,
    loss: str,
    weights: list[float],
    global_batch: int,
    xla: bool,
) -> Callable:
    """The function of a batch and its tiles' seeds: loss and scaled gradients.

    A replica's loss is its tiles' sum over the global batch, so that replicas, and
    parts of a batch, add up to the loss and gradient that one device would have.
    """

    @graph_function(jit_compile=xla or None)
    def gradients_of(batch, tile_seeds):
        state.tile_seeds.current = tile_seeds
        image = input_pipeline.normalise(batch)
        label = tf.cast(batch["label"], tf.int32)
        border = tf.cast(batch["weight"], tf.float32) * geometry.weight_step
        variables = state.network.trainable_variables
        with tf.GradientTape() as tape:
            logits = state.network(image, training=True)
            losses = tile_losses(loss, logits, label, border, tf.constant(weights))
            total = tf.reduce_sum(losses) / global_batch
            scaled = state.optimizer.scale_loss(total)
        return total, tape.gradient(scaled, variables)

    return gradients_of


def make_steps(
    state: State,
    strategy: tf.distribute.Strategy,
    geometry: input_pipeline.Geometry,
    weights: list[float],
    train: ml_collections.ConfigDict,
    *,
    xla: bool = False,
) -> Callable:
    """The graph function that runs n steps: (iterator, n, stop) to `Made`.

    Args:
      state: what the steps change.
      strategy: over which replicas.
      geometry: of the records.
      weights: of the classes.
      train: the config's `train` part.
      xla: whether forward and backward are compiled.
    """
    gradients_of = make_gradients(
        state,
        geometry,
        loss=train.loss,
        weights=weights,
        global_batch=train.global_batch,
        xla=xla,
    )
    own = train.global_batch // strategy.num_replicas_in_sync
    size = own // train.accumulate  # tiles taken at once

    def gradients_of_parts(batch, seeds):
        """The sum over the parts of a replica's batch."""
        if train.accumulate == 1:
            return gradients_of(batch, seeds)
        parts = {k: tf.reshape(v, [-1, size, *v.shape[1:]]) for k, v in batch.items()}
        seeds = tf.reshape(seeds, [-1, size])
        variables = state.network.trainable_variables

        def add(index, total, sums):
            part = {name: value[index] for name, value in parts.items()}
            loss, gradients = gradients_of(part, seeds[index])
            added = [a + b for a, b in zip(sums, gradients, strict=True)]
            return index + 1, total + loss, added

        sums = [tf.zeros(v.shape, v.dtype) for v in variables]
        _, total, sums = tf.while_loop(
            lambda index, *_: index < train.accumulate,
            add,
            (tf.constant(0), tf.constant(0.0), sums),
            parallel_iterations=1,  # one part's activations in memory at a time
        )
        return total, sums

    def replica_step(batch):
        replica = tf.distribute.get_replica_context()
        first = tf.cast(replica.replica_id_in_sync_group, tf.int64) * own
        seeds = state.step * MOST_TILES + first + tf.range(own, dtype=tf.int64)
        loss, gradients = gradients_of_parts(batch, seeds)
        gradients = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        norm = tf.linalg.global_norm(gradients) / state.optimizer.scale_loss(1.0)
        if train.clip_norm:
            factor = tf.minimum(1.0, train.clip_norm / norm)
            gradients = [gradient * factor for gradient in gradients]
        state.optimizer.apply(gradients, state.network.trainable_variables)
        return loss, norm

    def summed(per_replica):
        return strategy.reduce(tf.distribute.ReduceOp.SUM, per_replica, axis=None)

    @graph_function
    def run_steps(iterator, count, stop):
        def one(index, losses, norms):
            loss, norm = strategy.run(replica_step, args=(iterator.get_next(),))
            local = strategy.experimental_local_results(norm)[0]  # all are the same
            state.update_average(strategy)
            state.step.assign_add(1)
            losses = losses.write(index, summed(loss))
            return index + 1, losses, norms.write(index, local)

        made = [tf.TensorArray(tf.float32, size=count) for _ in range(2)]
        _, losses, norms = tf.while_loop(
            lambda index, *_: index < count,
            one,
            (tf.constant(0), *made),
            parallel_iterations=1,  # steps follow each other
        )
        stops = summed(strategy.run(lambda: tf.cast(stop, tf.int32)))
        return Made(losses.stack(), norms.stack(), stops)

    return run_steps
