"""ISBI 2012: two stacks, `train-volume.tif` and `train-labels.tif`.

Labels are 0 on membranes, else cell interior; a page is a slice
(arXiv 1505.04597, section 4; brainiac2.mit.edu/isbi_challenge).
"""

from collections.abc import Sequence

import ml_collections
import numpy as np

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.images.formats import (
    count_pages,
    neighbours_of,
    read_labels,
)
from unet_tfrecords.dataset.images.frames import Frame, FrameListing, Objects, Truth
from unet_tfrecords.dataset.images.mask_values import foreground_of
from unet_tfrecords.dataset.images.pages import Page
from unet_tfrecords.dataset.regions import connected_instances
from unet_tfrecords.storage import files

VOLUME, LABELS = "train-volume.tif", "train-labels.tif"
WANTS = f"{VOLUME} and {LABELS}"


def find(name: str, folder: str, data: ml_collections.ConfigDict) -> FrameListing:
    """One frame a slice."""
    volume = files.join(folder, VOLUME)
    labels = files.join(folder, LABELS)
    if missing := [path for path in (volume, labels) if not files.exists(path)]:
        raise UserError([f"{path}: missing; see {folder}'s layout" for path in missing])
    pages, label_pages = count_pages(volume), count_pages(labels)
    if pages != label_pages:
        raise UserError(
            f"{labels}: {label_pages} pages, but {volume} has {pages}; "
            "both stacks need one page a slice"
        )
    slices = [Page(volume, i) for i in range(pages)]
    frames = [
        Frame(
            *(name, "stack", f"z{i:03d}", "isbi", image, Page(labels, i)),
            neighbours=neighbours_of(slices, i, data.neighbours),
        )
        for i, image in enumerate(slices)
    ]
    return FrameListing(frames, [])


def truth_files(folder: str, inside: Sequence[str]) -> set[str]:
    """Labels beside a volume."""
    volumes = [name for name in inside if files.basename(name) == VOLUME]
    labels = {name[: -len(VOLUME)] + LABELS for name in volumes}
    return {files.join(folder, name) for name in labels & set(inside)}


def truth(frame: Frame, data: ml_collections.ConfigDict, notes: list[str]) -> Truth:
    """Cells are what membranes part."""
    assert frame.label is not None
    labels = read_labels(frame.label, exact=False, notes=notes)
    classes = foreground_of(labels, str(frame.label), notes).view(np.uint8)
    return Truth(connected_instances(classes), classes)


def objects(frame: Frame, truth: Truth) -> Objects:
    """None: cells that fill the plane are scored as a partition of it."""
    return Objects(None, None)
