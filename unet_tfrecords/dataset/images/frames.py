"""What a data set is made of: frames that refer to files, and their truth."""

import dataclasses
import re
from typing import NamedTuple

import numpy as np

from unet_tfrecords.dataset.images.pages import Page

PAGES = ("image", "label", "silver", "markers")


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    """A reference to one 2D image and its truth; the pixels stay in their files.

    Attributes:
      dataset, sequence, name: the identity, from which keys and seeds are made.
      layout: which adapter reads its truth.
      image: the picture.
      label: the truth (Cell Tracking Challenge: gold).
      silver: approximate but complete truth (Cell Tracking Challenge).
      markers: one dot a cell, for finding the unlabelled (Cell Tracking Challenge).
      split: train, validation or test.
      objects: masks of single objects, where each has a file of its own.
      neighbours: images whose channels follow its own, see config.data.neighbours.
    """

    dataset: str
    sequence: str
    name: str
    layout: str
    image: Page
    label: Page | None = None
    silver: Page | None = None
    markers: Page | None = None
    split: str = ""
    objects: tuple[Page, ...] = ()
    neighbours: tuple[Page, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.dataset}/{self.sequence}/{self.name}"

    @property
    def pages(self) -> list[Page]:
        """Everything that the frame is made from."""
        named = [page for name in PAGES if (page := getattr(self, name))]
        return [*named, *self.objects, *self.neighbours]

    @property
    def images(self) -> list[Page]:
        """The picture, and its neighbours."""
        return [self.image, *self.neighbours]


class FrameListing(NamedTuple):
    """What lies in a folder.

    Attributes:
      frames: the labelled frames, in order of sequence and name.
      problems: files that should belong to a frame and don't, a line each.
      unlabelled: images that nobody labelled, as the layout allows.
      left_out: files that no frame is made from.
      arrangement: of images and masks in the folder, for people.
      labels_reason: why masks are read as they are.
    """

    frames: list[Frame]
    problems: list[str]
    unlabelled: int = 0
    left_out: tuple[str, ...] = ()
    arrangement: str = ""
    labels_reason: str = ""


def natural_key(name: str) -> tuple:
    """Sorts names by the numbers in them, as people do, not by their digits.

    >>> sorted(["t10", "t9", "p2_t1", "p10_t1", "t1"], key=natural_key)
    ['p2_t1', 'p10_t1', 't1', 't9', 't10']
    """
    parts = re.split("([0-9]+)", name)
    # Text and numbers take turns, so that like is compared with like.
    return tuple((int(p), p) if i % 2 else p for i, p in enumerate(parts))


class Truth(NamedTuple):
    """What is known of a frame.

    Attributes:
      instances: uint16 or int32 [H, W], 0 is background; numbers mean nothing but
        identity.
      classes: uint8 [H, W], 0 is background, 255 is unlabelled.
    """

    instances: np.ndarray
    classes: np.ndarray


class Objects(NamedTuple):
    """What scores of objects are taken from; None where the truth has no such thing.

    Attributes:
      exact: integer [H, W], objects whose outline counts; it need not have all of them.
      markers: integer [H, W], all objects there are; their outline counts for nothing.
      ignored: bool [H, W], where nobody looked for objects: none there is too many.
    """

    exact: np.ndarray | None
    markers: np.ndarray | None
    ignored: np.ndarray | None = None


def size_text(image: np.ndarray) -> str:
    """Height and width for people.

    >>> size_text(np.zeros((5, 6)))
    '5 x 6'
    """
    return f"{image.shape[0]} x {image.shape[1]}"
