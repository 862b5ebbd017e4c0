"""Scores and pictures of the validation tiles, while training goes on."""

from typing import Any

import numpy as np
import tensorflow as tf

from preprocess.records import UNLABELLED
from trainer import input_pipeline
from trainer.metrics import confusion_matrix, pixel_scores

PICTURES = 4  # tiles shown in TensorBoard, always the same ones


class Validator:
    """Runs the network over all validation tiles, as often as it is called."""

    def __init__(
        self, network, tiles: tf.data.Dataset, geometry: input_pipeline.Geometry
    ):
        self.tiles = tiles
        self.geometry = geometry

        @tf.function
        def probabilities(batch):
            logits = network(input_pipeline.normalise(batch), training=False)
            return tf.nn.softmax(logits)

        self.probabilities = probabilities

    def __call__(self) -> tuple[dict[str, Any], np.ndarray]:
        """Scores the network as it is now.

        Returns:
          Scores (mean_iou, pixel_error, iou of each class) and pictures, uint8
          [N, output, 4 * output, 3].
        """
        classes = self.geometry.classes
        confusion = np.zeros((classes, classes), np.int64)
        pictures: list[np.ndarray] = []
        for batch in self.tiles:
            probability = self.probabilities(batch).numpy()
            label = batch["label"].numpy()
            confusion += confusion_matrix(label, probability.argmax(-1), classes)
            for index in range(min(len(label), PICTURES - len(pictures))):
                image = batch["image"][index].numpy()
                pictures.append(picture(image, label[index], probability[index]))
        scores = pixel_scores(confusion)
        line = {name: scores[name] for name in ("mean_iou", "pixel_error")}
        line |= {f"iou_{k}": value for k, value in enumerate(scores["iou"])}
        return line, np.stack(pictures)


def picture(
    image: np.ndarray, label: np.ndarray, probability: np.ndarray
) -> np.ndarray:
    """Input, truth, foreground probability and error side by side.

    Args:
      image: [T, T, C]; shown is the part that the output covers, first channel.
      label: uint8 [O, O].
      probability: float32 [O, O, K].

    Returns:
      uint8 [O, 4 * O, 3]; unlabelled is grey, errors are red.
    """
    size = len(label)
    pad = (len(image) - size) // 2
    seen = image[pad : pad + size, pad : pad + size, 0].astype(np.float32)
    low, high = np.percentile(seen, (0.5, 99.5))
    grey = np.clip((seen - low) / max(high - low, 1e-6) * 255, 0, 255)
    classes = probability.shape[-1]
    truth = np.where(label == UNLABELLED, 128, label / (classes - 1) * 255)
    foreground = (1 - probability[..., 0]) * 255
    panels = [np.repeat(p[..., None], 3, axis=-1) for p in (grey, truth, foreground)]
    wrong = (probability.argmax(-1) != label) & (label != UNLABELLED)
    error = panels[0] * 0.5
    error[wrong] = (255, 0, 0)
    return np.concatenate([*panels, error], axis=1).astype(np.uint8)
