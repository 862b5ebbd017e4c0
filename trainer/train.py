"""The training loop: steps, checkpoints, resume.

A custom loop, because Keras' own fails under MirroredStrategy with several steps a
call, and under MultiWorkerMirroredStrategy at once. Keras supplies layers, optimisers,
loss scaling and schedules; TensorFlow the distribution and the checkpoints.
"""

import math
import sys
import time
from typing import Any

import keras
import ml_collections
import tensorflow as tf
from tqdm import tqdm

from preprocess import files
from preprocess.check import check_data_config
from preprocess.errors import UserError
from preprocess.shards import read_info
from trainer import input_pipeline, workdir
from trainer.check import check_fit, check_train_config
from trainer.losses import class_weights, weighted_cross_entropy
from trainer.model import build_model
from trainer.strategy import describe, make_strategy, resolve_precision
from trainer.validate import Validator


def make_schedule(
    train: ml_collections.ConfigDict,
) -> keras.optimizers.schedules.LearningRateSchedule:
    """The config's learning rate by the number of steps made before."""
    # Keras' CosineDecay decays to alpha times the target: with alpha 1 it is constant.
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if train.warmup_steps else train.learning_rate,
        decay_steps=max(1, train.steps - train.warmup_steps),
        alpha=0.0 if train.schedule == "cosine" else 1.0,
        warmup_target=train.learning_rate if train.warmup_steps else None,
        warmup_steps=train.warmup_steps,
    )


def make_optimizer(
    train: ml_collections.ConfigDict, precision: str
) -> keras.optimizers.Optimizer:
    """The config's optimiser; with loss scaling in mixed_float16."""
    rate = make_schedule(train)
    if train.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(rate, momentum=train.momentum)
    elif train.optimizer == "adam":
        optimizer = keras.optimizers.Adam(rate)
    else:
        optimizer = keras.optimizers.AdamW(rate)
    if precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


class State(tf.Module):
    """All that training changes: what a checkpoint holds."""

    def __init__(self, config: ml_collections.ConfigDict, precision: str):
        super().__init__()
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.network = build_model(
            config.model,
            precision=precision,
            seed=config.seed,
            step=lambda: self.step,
        )
        self.optimizer = make_optimizer(config.train, precision)
        self.optimizer.build(self.network.trainable_variables)

    def checkpoint(self) -> tf.train.Checkpoint:
        return tf.train.Checkpoint(
            network=self.network, optimizer=self.optimizer, step=self.step
        )


def make_steps(
    state: State,
    strategy: tf.distribute.Strategy,
    geometry: input_pipeline.Geometry,
    weights: list[float],
    global_batch: int,
):
    """The graph function that runs n steps: (iterator, n) to their losses [n].

    A replica's loss is its tiles' sum over the global batch, so that replicas add up
    to the same loss and gradient as one device would have.
    """

    def replica_step(batch):
        image = input_pipeline.normalise(batch)
        label = tf.cast(batch["label"], tf.int32)
        border = tf.cast(batch["weight"], tf.float32) * geometry.weight_step
        with tf.GradientTape() as tape:
            logits = state.network(image, training=True)
            losses = weighted_cross_entropy(logits, label, border, tf.constant(weights))
            loss = tf.reduce_sum(losses) / global_batch
            scaled = state.optimizer.scale_loss(loss)
        variables = state.network.trainable_variables
        # Keras' optimisers sum the gradients over replicas before they apply them.
        gradients = tape.gradient(scaled, variables)
        state.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return loss

    @tf.function
    def run_steps(iterator, count):
        losses = tf.TensorArray(tf.float32, size=count)
        for index in tf.range(count):
            per_replica = strategy.run(replica_step, args=(next(iterator),))
            loss = strategy.reduce(tf.distribute.ReduceOp.SUM, per_replica, axis=None)
            losses = losses.write(index, loss)
            state.step.assign_add(1)
        return losses.stack()

    return run_steps


def steps_until_look(step: int, train: ml_collections.ConfigDict) -> int:
    """Steps until something is due: a log line, validation, checkpoint or the end."""
    periods = (
        train.log_every_steps,
        train.validate_every_steps,
        train.checkpoint_every_steps,
    )
    due = min(period - step % period for period in periods)
    return min(train.steps_per_call, due, train.steps - step)


def train(config: ml_collections.ConfigDict, data: str, folder: str) -> None:
    """Trains to the config's last step, going on where an earlier run stopped.

    Args:
      config: the whole config.
      data: folder of a finished data set.
      folder: the work directory.

    Raises:
      UserError: data and model don't fit, or the loss is not finite any more.
    """
    info = read_info(data)
    check_data_config(config)
    check_train_config(config)
    check_fit(info, config)
    config.data.on_bad_frame = info["config"]["data"]["on_bad_frame"]
    paths = {
        split: input_pipeline.shard_paths(info, data, split)
        for split in ("train", "validation")
        if info["splits"][split]["shards"]
    }
    strategy = make_strategy()
    replicas = strategy.num_replicas_in_sync
    batch = config.train.global_batch
    if batch % replicas:
        raise UserError(
            f"config.train.global_batch={batch} is not divisible by {replicas} replicas"
        )
    precision = resolve_precision(config.train.precision)
    with strategy.scope():
        state = State(config, precision)
    workdir.claim(folder, config, info)
    parameters = state.network.count_params()
    print(f"{parameters:,} parameters; {describe(strategy, precision)}", flush=True)
    _Loop(config, paths, folder, info, state, strategy).run()


class _Loop:
    """One call of train: its data, its logs, and the state it moves forward."""

    def __init__(self, config, paths, folder, info, state, strategy):
        self.train = config.train
        self.folder = folder
        self.state = state
        self.schedule = make_schedule(config.train)
        self.manager = tf.train.CheckpointManager(
            state.checkpoint(),
            files.join(folder, workdir.CHECKPOINTS),
            max_to_keep=config.train.keep_checkpoints,
            step_counter=state.step,
        )
        if self.manager.restore_or_initialize():
            print(f"going on after step {int(state.step)}", flush=True)
        workdir.trim_metrics(folder, int(state.step))
        self.writer = tf.summary.create_file_writer(files.join(folder, workdir.LOGS))
        geometry = input_pipeline.geometry_of(info)
        batches = input_pipeline.training_batches(
            paths["train"],
            geometry,
            num_tiles=info["splits"]["train"]["num_tiles"],
            global_batch=config.train.global_batch,
            shuffle_tiles=config.train.shuffle_tiles,
            seed=config.seed,
            start_step=int(state.step),
        )
        self.iterator = iter(strategy.experimental_distribute_dataset(batches))
        weights = class_weights(
            info["splits"]["train"]["class_pixels"], config.train.class_weights
        )
        self.run_steps = make_steps(
            state, strategy, geometry, weights, config.train.global_batch
        )
        self.validate = None
        if "validation" in paths:
            tiles = input_pipeline.validation_batches(
                paths["validation"],
                geometry,
                batch=max(
                    1, config.train.global_batch // strategy.num_replicas_in_sync
                ),
            )
            self.validate = Validator(state.network, tiles, geometry)

    def run(self) -> None:
        step = int(self.state.step)
        pending: list[float] = []
        since = time.monotonic()
        bar = tqdm(
            total=self.train.steps,
            initial=step,
            unit="step",
            file=sys.stderr,
            mininterval=1.0,
        )
        while step < self.train.steps:
            count = steps_until_look(step, self.train)
            losses = self.run_steps(self.iterator, tf.constant(count)).numpy().tolist()
            self._stop_on_nan(losses, step)
            step += count
            pending += losses
            images = len(pending) * self.train.global_batch
            speed = images / (time.monotonic() - since)
            bar.set_postfix_str(f"loss {losses[-1]:.4f}, {speed:.2f} images/s", False)
            bar.update(count)
            if self._anything_due(step):
                self._log(step, sum(pending) / len(pending), speed)
                pending = []
                if self._due(step, self.train.checkpoint_every_steps):
                    self.manager.save(step)
                since = time.monotonic()
        bar.close()
        print(files.join(self.folder, workdir.CHECKPOINTS), flush=True)

    def _due(self, step: int, period: int) -> bool:
        return step % period == 0 or step == self.train.steps

    def _anything_due(self, step: int) -> bool:
        train = self.train
        return any(
            self._due(step, period)
            for period in (
                train.log_every_steps,
                train.validate_every_steps,
                train.checkpoint_every_steps,
            )
        )

    def _stop_on_nan(self, losses: list[float], step: int) -> None:
        for index, loss in enumerate(losses, start=1):
            if not math.isfinite(loss):
                raise UserError(
                    f"the loss is {loss} at step {step + index}, learning rate "
                    f"{float(self.schedule(step + index - 1)):.3g}; lower "
                    "config.train.learning_rate and train into another --workdir"
                )

    def _log(self, step: int, loss: float, speed: float) -> None:
        """One line in metrics.jsonl, the same in TensorBoard, pictures with scores."""
        line: dict[str, Any] = {
            "step": step,
            "loss": loss,
            "learning_rate": float(self.schedule(step - 1)),
            "images_per_s": round(speed, 3),
        }
        pictures = None
        if self.validate and self._due(step, self.train.validate_every_steps):
            scores, pictures = self.validate()
            line |= {f"val_{name}": value for name, value in scores.items()}
            shown = ", ".join(
                f"{k} {v:.4f}" for k, v in scores.items() if v is not None
            )
            tqdm.write(f"step {step}: validation {shown}", file=sys.stderr)
        workdir.append_metrics(self.folder, line)
        with self.writer.as_default(step=step):
            for name, value in line.items():
                if name != "step" and value is not None:
                    tf.summary.scalar(name, value)
            if pictures is not None:
                tf.summary.image(
                    "input | truth | probability | error", pictures, max_outputs=8
                )
        self.writer.flush()
