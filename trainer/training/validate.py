"""Scores and pictures of the validation split's whole frames, during training."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import keras
import ml_collections
import numpy as np
import tensorflow as tf

from trainer.devices.graphs import graph_function
from trainer.devices.strategy import summing
from trainer.inference.segmenter import Segmenter
from trainer.input.whole_frames import WholeFrame
from trainer.scores.pixels import confusion_matrix, pixel_scores
from unet_tfrecords.dataset import pictures
from unet_tfrecords.dataset.records import UNLABELLED

PICTURES = 4  # frames shown in TensorBoard, always the same ones
PICTURE_PX = 512  # longest edge of each of a picture's four panels


class Validation(NamedTuple):
    """What one validation found.

    Attributes:
      scores: mean_iou, pixel_error, cross_entropy, iou_0, iou_1, ...; None where there
        was nothing to score.
      pictures: uint8 [H, 4 W, 3] by the frame's key.
    """

    scores: dict[str, float | None]
    pictures: dict[str, np.ndarray]

    def shown(self) -> str:
        """The scores in a line for people."""
        known = {k: v for k, v in self.scores.items() if v is not None}
        return ", ".join(f"{name} {value:.4f}" for name, value in known.items())


@dataclasses.dataclass(eq=False)
class Validator:
    """Runs the network over whole frames, dealt over the replicas.

    Attributes:
      network: what is validated, as its weights are at each call.
      strategy: over which replicas.
      frames: reads this worker's frames; called again at each validation.
      model: the config's `model` part.
      images: whose channels a frame has: its own, and its neighbours'.
    """

    network: keras.Model
    strategy: tf.distribute.Strategy
    frames: Callable[[], Iterator[WholeFrame]]
    model: ml_collections.ConfigDict
    images: int = 1

    def __post_init__(self):
        strategy, model = self.strategy, self.model
        self.replicas = len(strategy.extended.worker_devices)
        planes = self.network.output_shape[-1] - model.classes
        segmenter = Segmenter(
            self.network, depth=model.depth, classes=model.classes, planes=planes
        )
        spec = tf.TensorSpec([1, None, None, model.channels], tf.float32)
        segment = graph_function(segmenter.stitch, input_signature=[spec])

        @graph_function(reduce_retracing=True)
        def segment_all(images):
            return strategy.run(lambda image: segment(image), args=(images,))

        self.segment_all = segment_all
        self.add_up = summing(strategy)

    def probabilities(self, frames: list[WholeFrame]) -> list[np.ndarray]:
        """float32 [H, W, K] of as many frames as there are replicas, or fewer."""
        images = [tf.constant(normalised(frame)[None]) for frame in frames]
        if self.replicas == 1:
            dealt = images[0]
        else:
            images += [images[-1]] * (self.replicas - len(images))
            dealt = self.strategy.experimental_distribute_values_from_function(
                lambda context: images[context.replica_id_in_sync_group % self.replicas]
            )
        results = self.strategy.experimental_local_results(self.segment_all(dealt))
        classes = self.model.classes
        return [r[0, ..., :classes].numpy() for r in results[: len(frames)]]

    def __call__(self, most: int = 0) -> Validation:
        """Scores the network as it is now, over all workers' frames together.

        Args:
          most: frames to look at; 0 takes all.
        """
        classes = self.model.classes
        confusion = np.zeros((classes, classes), np.int64)
        entropy = 0.0
        drawn: dict[str, np.ndarray] = {}
        frames = itertools.islice(self.frames(), most or None)
        while together := list(itertools.islice(frames, self.replicas)):
            for frame, probability in zip(
                together, self.probabilities(together), strict=True
            ):
                predicted = probability.argmax(-1)
                confusion += confusion_matrix(frame.label, predicted, classes)
                entropy += cross_entropy(frame.label, probability)
                if len(drawn) < PICTURES:
                    drawn[frame.key] = picture(frame, probability, self.images)
        sums = tf.constant([*confusion.ravel().tolist(), entropy], tf.float64)
        *counts, entropy = self.add_up(sums).numpy().tolist()
        confusion = np.rint(counts).astype(np.int64).reshape(classes, classes)
        return Validation(named_scores(confusion, entropy), drawn)


def named_scores(confusion: np.ndarray, entropy: float) -> dict[str, float | None]:
    """Scores by the names under which they are logged."""
    scores = pixel_scores(confusion)
    labelled = int(confusion.sum())
    known = labelled and math.isfinite(entropy)
    return {
        "mean_iou": scores["mean_iou"],
        "pixel_error": scores["pixel_error"],
        "cross_entropy": entropy / labelled if known else None,
        **{name: value for name, value in scores.items() if name.startswith("iou_")},
    }


def normalised(frame: WholeFrame) -> np.ndarray:
    """The frame as the network wants it, float32 [H, W, C]."""
    return (frame.image.astype(np.float32) - frame.mean) / frame.std


def cross_entropy(label: np.ndarray, probability: np.ndarray) -> float:
    """Sum over the labelled pixels of -log of the true class's probability."""
    rows, columns = np.nonzero(label != UNLABELLED)
    true = probability[rows, columns, label[rows, columns]]
    smallest = np.finfo(np.float32).tiny
    return float(-np.log(np.maximum(true, smallest)).sum(dtype=np.float64))


def picture(frame: WholeFrame, probability: np.ndarray, images: int = 1) -> np.ndarray:
    """Draws input, truth, foreground probability and errors side by side.

    Args:
      frame: the validated frame.
      probability: float32 [H, W, K].
      images: whose channels it has, its own first, which are shown.

    Returns:
      uint8 RGB [H, 4 * W, 3], at most PICTURE_PX high and 4 * PICTURE_PX wide.
    """
    truth = np.where(frame.label == UNLABELLED, 0, frame.label)
    image = frame.image[..., : frame.image.shape[2] // images]
    panels = [
        pictures.grey_levels(image),
        pictures.overlay(image, truth),
        pictures.heat_map(1 - probability[..., 0]),
        pictures.error_map(image, frame.label, probability.argmax(-1)),
    ]
    return np.concatenate([pictures.shrunk(p, PICTURE_PX) for p in panels], axis=1)
