"""Pictures of the best and the worst frames of an evaluation, for the report."""

import base64
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np

from trainer.inference.instances import InstanceRules, classes_of, instances_of
from unet_tfrecords.dataset.images.frames import Truth
from unet_tfrecords.dataset.pictures import (
    error_map,
    grey_levels,
    heat_map,
    overlay,
    shrunk,
)
from unet_tfrecords.dataset.records import UNLABELLED
from unet_tfrecords.storage import files, json_files

LONGEST_PX = 512  # edge of a picture
JPEG_QUALITY = 85

Panels = Mapping[str, bytes]


def panels(
    image: np.ndarray,
    truth: Truth,
    probabilities: np.ndarray,
    rules: InstanceRules,
    *,
    partition: bool = False,
) -> Panels:
    """JPEG files that show a frame.

    Args:
      image: uint8 or uint16 [H, W, C].
      truth: of the same height and width.
      probabilities: float32 [H, W, K].
      rules: how classes and instances are made of them.
      partition: whether cells are told by membranes, so that numbering them says
        nothing.

    Returns:
      By name: input, truth, probability (of foreground), result, and error, see
      `pictures.error_map`.
    """
    classes = classes_of(probabilities, rules.threshold)
    shown = np.where(truth.classes == UNLABELLED, 0, truth.classes)
    instances = None if partition else instances_of(probabilities, rules)
    known = None if partition else truth.instances
    drawn = {
        "input": grey_levels(image),
        "truth": overlay(image, shown, known),
        "probability": heat_map(1 - probabilities[..., 0]),
        "result": overlay(image, classes, instances),
        "error": error_map(image, truth.classes, classes),
    }
    return {name: _jpeg(picture) for name, picture in drawn.items()}


def _jpeg(picture: np.ndarray) -> bytes:
    """Compressed, at most LONGEST_PX along either edge."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    small = shrunk(picture, LONGEST_PX)
    return cv2.imencode(".jpg", small[..., ::-1], quality)[1].tobytes()


class Gallery:
    """The frames with the highest and the lowest scores so far."""

    def __init__(self, number: int):
        """Empty.

        Args:
          number: of best frames, and of worst ones.
        """
        self.number = number
        self.shown: list[tuple[float, str, Panels]] = []  # ascending

    def add(self, key: str, score: float | None, draw: Callable[[], Panels]) -> None:
        """Takes a frame in, and draws it only if it is among them."""
        value = -1.0 if score is None else score
        here = sum((value, key) > entry[:2] for entry in self.shown)
        if len(self.shown) == 2 * self.number:
            if here == self.number:
                return
            gone = self.number - (here < self.number)
            del self.shown[gone]
            here -= here > gone
        self.shown.insert(here, (value, key, draw()))

    def write(self, folder: str, split: str) -> None:
        """Keeps them in the work directory, as text that a page can hold."""
        content = [
            {
                "key": key,
                "score": score,
                "panels": {
                    name: base64.b64encode(data).decode()
                    for name, data in drawn.items()
                },
            }
            for score, key, drawn in reversed(self.shown)
        ]
        json_files.write(_path(folder, split), content)


def read(folder: str, split: str) -> list[dict[str, Any]]:
    """What `Gallery.write` kept, the best first; nothing where there is none."""
    path = _path(folder, split)
    if not files.exists(path):
        return []
    return json_files.read(path, cure="evaluate again", kind=list)


def _path(folder: str, split: str) -> str:
    return files.join(folder, f"evaluation-{split}-pictures.json")
