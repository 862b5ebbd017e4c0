"""Pictures of the best and the worst frames of an evaluation, for the report."""

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import msgspec
import numpy as np

from trainer.inference.instances import InstanceRules, classes_of, instances_of
from trainer.scores.frame import Segmented
from unet_tfrecords.dataset import pictures
from unet_tfrecords.dataset.records import UNLABELLED
from unet_tfrecords.storage import files, json_files

LONGEST_PX = 512  # edge of a picture
JPEG_QUALITY = 85

Panels = Mapping[str, bytes]


def panels(frame: Segmented, rules: InstanceRules) -> Panels:
    """JPEG files that show a frame, with classes and instances by some rules.

    Returns:
      By name: input, truth, probability (of foreground), result, and error, see
      `pictures.error_map`.
    """
    image, truth = frame.image, frame.truth
    classes = classes_of(frame.probabilities, rules.threshold)
    shown = np.where(truth.classes == UNLABELLED, 0, truth.classes)
    instances, known = None, None
    if not frame.partition:
        instances = instances_of(frame.probabilities, rules, frame.planes)
        known = truth.instances
    drawn = {
        "input": pictures.grey_levels(image),
        "truth": pictures.overlay(image, shown, known),
        "probability": pictures.heat_map(1 - frame.probabilities[..., 0]),
        "result": pictures.overlay(image, classes, instances),
        "error": pictures.error_map(image, truth.classes, classes),
    }
    return {name: _jpeg(picture) for name, picture in drawn.items()}


def _jpeg(picture: np.ndarray) -> bytes:
    """Compressed, at most LONGEST_PX along either edge."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    small = pictures.shrunk(picture, LONGEST_PX)
    return cv2.imencode(".jpg", small[..., ::-1], quality)[1].tobytes()


class Gallery:
    """The frames with the highest and the lowest scores so far."""

    def __init__(self, number: int):
        """Empty.

        Args:
          number: of best frames, and of worst ones.
        """
        self.number = number
        self.shown: list[list[Any]] = []  # score, key, pictures; ascending

    def add(self, key: str, score: float | None, draw: Callable[[], Panels]) -> None:
        """Takes a frame in, and draws it only if it is among them."""
        entry = [-1.0 if score is None else score, key, None]
        self.shown = sorted([*self.shown, entry], key=lambda shown: shown[:2])
        if len(self.shown) > 2 * self.number:
            del self.shown[self.number]
        if any(shown is entry for shown in self.shown):
            entry[2] = draw()

    def write(self, folder: str, split: str) -> None:
        """Keeps them in the work directory, as text that a page can hold."""
        content = [
            {"key": key, "score": score, "panels": drawn}  # bytes become Base64
            for score, key, drawn in reversed(self.shown)
        ]
        json_files.write(_path(folder, split), msgspec.to_builtins(content))


def read(folder: str, split: str) -> list[dict[str, Any]]:
    """What `Gallery.write` kept, the best first; nothing where there is none."""
    path = _path(folder, split)
    if not files.exists(path):
        return []
    return json_files.read(path, cure="evaluate again", kind=list)


def _path(folder: str, split: str) -> str:
    return files.join(folder, f"evaluation-{split}-pictures.json")
