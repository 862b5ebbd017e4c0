"""One training step on all replicas: what changes, and how.

Shapes: B a replica's tiles, T tile pixels, O output pixels, C channels.
"""

import dataclasses
from typing import NamedTuple

import ml_collections
import tensorflow as tf

from trainer.devices.graphs import graph_function
from trainer.input import input_pipeline
from trainer.network.dropout import TileSeeds
from trainer.network.unet import build_model
from trainer.training.losses import plane_losses, tile_losses
from trainer.training.optimizers import Optimizer, make_schedule
from trainer.training.packs import NOT_JOINED, Packs
from unet_tfrecords.dataset.records import Geometry
from unet_tfrecords.dataset.targets import planes_of

MOST_TILES = 2**20  # a step, to tell the seeds of one step from those of the next


class State(tf.Module):
    """All that training changes: what a checkpoint holds."""

    def __init__(self, config: ml_collections.ConfigDict, precision: str):
        super().__init__()
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.tile_seeds = TileSeeds()
        model, seed = config.model, config.seed
        own = {"planes": planes_of(config.data), "precision": precision, "seed": seed}
        self.network = build_model(model, tile_seeds=self.tile_seeds, **own)
        self.ema = config.train.ema
        # The network that is validated and exported.
        self.averaged = build_model(model, **own) if self.ema else self.network
        self.packs = Packs([v.shape for v in self.network.trainable_variables])
        self.schedule = make_schedule(config.train)
        self.optimizer = Optimizer(
            config.train,
            self.network.trainable_variables,
            scaled=precision == "mixed_float16",
        )

    def checkpoint(self) -> tf.train.Checkpoint:
        """What is saved; `averaged` is `network` itself where there is no average."""
        return tf.train.Checkpoint(
            network=self.network,
            averaged=self.averaged,
            optimizer=self.optimizer,
            step=self.step,
        )

    def variables_saved(self) -> list[tf.Variable]:
        """All that a checkpoint holds, in the same order for every state."""
        networks = {id(n): n for n in (self.network, self.averaged)}.values()
        weights = [weight.value for n in networks for weight in n.weights]
        return [self.step, *weights, *self.optimizer.state()]

    def apply(self, packs: list[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """Makes one update of a device's variables: weights, slots, average and step.

        Args:
          packs: of the loss and the scaled gradients, summed over replicas.

        Returns:
          The loss and the gradients' norm, float32 [].
        """
        loss, gradients = self.packs.split(packs)
        norm = self.optimizer.apply(gradients, self.schedule(self.step))
        if self.ema:
            self._move_average()
        self.step.assign_add(1)
        return loss, norm

    def _move_average(self) -> None:
        """Moves the average towards the weights, faster in the beginning."""
        step = tf.cast(self.step, tf.float32)
        kept = tf.minimum(self.ema, (1 + step) / (10 + step))
        pairs = zip(self.averaged.weights, self.network.weights, strict=True)
        for average, weight in pairs:
            mean = kept * average.value + (1 - kept) * weight.value
            average.value.assign(mean)


class StepResults(NamedTuple):
    """What n steps gave: losses [n], norms of the gradients [n], stops asked for []."""

    losses: tf.Tensor
    norms: tf.Tensor
    stops: tf.Tensor


@dataclasses.dataclass(eq=False)
class TrainingSteps:
    """Runs steps on all replicas.

    A step on each replica is one function of its tiles, a sum over replicas, and one
    function of the sums: the ops between are few, so that the host keeps up with a GPU.

    Attributes:
      state: what the steps change.
      strategy: over which replicas.
      geometry: of the records.
      weights: of the classes.
      train: the config's `train` part.
      xla: whether both functions are compiled.
    """

    state: State
    strategy: tf.distribute.Strategy
    geometry: Geometry
    weights: list[float]
    train: ml_collections.ConfigDict
    xla: bool = False

    def __post_init__(self):
        """Prepares the graphs, which are built at the first step."""
        self.tiles = self.train.global_batch // self.strategy.num_replicas_in_sync
        compiled = self.xla or None
        self.gradients = graph_function(self.gradients_of, jit_compile=compiled)
        self.update = graph_function(self.state.apply, jit_compile=compiled)
        self.run = graph_function(self.run_steps)

    def __call__(self, iterator, count: int, stop: bool = False) -> StepResults:
        """Makes `count` steps; `stop` tells all workers that this one has to stop."""
        return self.run(iterator, tf.constant(count), tf.constant(stop))

    def gradients_of(self, batch: dict[str, tf.Tensor], first_seed: tf.Tensor):
        """Packs of the loss and the scaled gradients of a batch.

        A replica's loss is its tiles' sum over the global batch, so that replicas, and
        parts of a batch, add up to the loss and gradient that one device would have.
        """
        state = self.state
        state.tile_seeds.first = first_seed
        image = input_pipeline.normalise(batch)
        # int64, because GPUs compare and reshape int32 on the host.
        label = tf.cast(batch["label"], tf.int64)
        border = tf.cast(batch["weight"], tf.float32) * self.geometry.weight_step
        variables = state.network.trainable_variables
        with tf.GradientTape() as tape:
            logits = state.network(image, training=True)
            weights = tf.constant(self.weights)
            classes = self.geometry.classes
            losses = tile_losses(
                self.train.loss, logits[..., :classes], label, border, weights
            )
            if self.geometry.planes:
                losses += plane_losses(
                    logits[..., classes:],
                    batch["planes"],
                    label,
                    self.train.plane_weight,
                )
            total = tf.reduce_sum(losses) / self.train.global_batch
            scaled = state.optimizer.scale_loss(total)
        return state.packs.join(total, tape.gradient(scaled, variables))

    def accumulated_gradients(self, batch: dict[str, tf.Tensor], first_seed):
        """The sum over the parts in which a replica's batch is taken."""
        parts = self.train.accumulate
        if parts == 1:
            return self.gradients(batch, first_seed)
        size = self.tiles // parts
        split = {k: tf.reshape(v, [-1, size, *v.shape[1:]]) for k, v in batch.items()}

        def packs_of(index, seed):
            return self.gradients({k: v[index] for k, v in split.items()}, seed)

        def add(index, seed, sums):
            more = packs_of(index, seed)
            added = [a + b for a, b in zip(sums, more, strict=True)]
            return index + 1, seed + size, added

        _, _, sums = tf.while_loop(
            lambda index, *_: index < parts,
            add,
            (tf.constant(1), first_seed + size, packs_of(0, first_seed)),
            parallel_iterations=1,  # one part's activations in memory at a time
        )
        return sums

    def summed_gradients(self, batch: dict[str, tf.Tensor]):
        """The packs of the global batch, on each replica."""
        replica = tf.distribute.get_replica_context()
        first = tf.cast(replica.replica_id_in_sync_group, tf.int64) * self.tiles
        seed = self.state.step * MOST_TILES + first
        packs = self.accumulated_gradients(batch, seed)
        return replica.all_reduce(tf.distribute.ReduceOp.SUM, packs, options=NOT_JOINED)

    def one_step(self, batch) -> tuple[tf.Tensor, tf.Tensor]:
        """Makes a step of a distributed batch; returns its loss and gradient norm."""
        packs = self.strategy.run(self.summed_gradients, args=(batch,))
        # On each device, with that device's copy of all variables.
        results = self.strategy.extended.update(
            self.state.step, lambda _, packs: self.update(packs), args=(packs,)
        )
        # They are the same on all replicas: this worker's first one's do.
        local = self.strategy.experimental_local_results
        return local(results[0])[0], local(results[1])[0]

    def run_steps(self, iterator, count: tf.Tensor, stop: tf.Tensor) -> StepResults:
        """The graph of `count` steps."""

        def one(index, losses, norms):
            loss, norm = self.one_step(iterator.get_next())
            return index + 1, losses.write(index, loss), norms.write(index, norm)

        arrays = [tf.TensorArray(tf.float32, size=count) for _ in range(2)]
        _, losses, norms = tf.while_loop(
            lambda index, *_: index < count,
            one,
            (tf.constant(0), *arrays),
            parallel_iterations=1,  # steps follow each other
        )
        # float32, because NCCL sums no int32.
        stops = self.strategy.run(lambda: tf.cast(stop, tf.float32))
        stops = self.strategy.reduce(tf.distribute.ReduceOp.SUM, stops, axis=None)
        return StepResults(losses.stack(), norms.stack(), stops)
