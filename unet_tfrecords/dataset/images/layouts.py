"""Data sets as they lie on disk: one module per layout.

Each has `find`, which frames there are; `truth`, what is known of one; `objects`, what
of that scores of objects are taken from; `truth_files`, which files are no images to be
segmented; and `WANTS`, the files that it looks for. A new layout is a new module and a
line in `LAYOUTS`.
"""

import os
from collections.abc import Iterable
from types import ModuleType

import ml_collections
import numpy as np

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.images import (
    ctc_layout,
    folder_layout,
    isbi_layout,
    mask_survey,
)
from unet_tfrecords.dataset.images.formats import count_pages, is_spread, read_images
from unet_tfrecords.dataset.images.frames import (
    Frame,
    FrameListing,
    Objects,
    Truth,
    natural_key,
    size_text,
)
from unet_tfrecords.dataset.images.value_map import parse
from unet_tfrecords.dataset.pixel_statistics import count_values
from unet_tfrecords.dataset.records import UNLABELLED
from unet_tfrecords.storage import files

LAYOUTS: dict[str, ModuleType] = {
    "isbi": isbi_layout,
    "ctc": ctc_layout,
    "folder": folder_layout,
}


def edge_px(data: ml_collections.ConfigDict) -> int:
    """How near to the frame's edge objects are not scored; 0 but for the challenge's.

    Args:
      data: the config's `data` part (layout, name).
    """
    return ctc_layout.EDGE_PX.get(data.name, 0) if data.layout == "ctc" else 0


def find_frames(data: ml_collections.ConfigDict, folder: str) -> list[Frame]:
    """All labelled frames below a folder, in order of sequence and name.

    Args:
      data: the config's `data` part (layout, labels, sequences, name, on_bad_frame).
      folder: the data set, local or remote.

    Raises:
      UserError: nothing there; or, unless bad frames are skipped, images without
        labels and the other way round.
    """
    found = look_for_frames(data, folder)
    if found.problems and (data.on_bad_frame == "fail" or not found.frames):
        raise UserError(found.problems)
    return found.frames


def look_for_frames(data: ml_collections.ConfigDict, folder: str) -> FrameListing:
    """Frames below a folder, and what is wrong there.

    Raises:
      UserError: nothing there at all.
    """
    if data.layout not in LAYOUTS:
        known = ", ".join(LAYOUTS)
        raise UserError(f"config.data.layout={data.layout!r} is none of {known}")
    if not files.is_remote(folder) and not os.path.isdir(folder):
        raise UserError(
            f"{folder}: no such folder; --input names the data set's folder"
        )
    name = data.name or files.basename(os.path.abspath(folder))
    if data.sequences and data.layout != "ctc":
        raise UserError(
            f"config.data.sequences={data.sequences}: layout {data.layout!r} has none"
        )
    for setting in ("mask_values", "group", "level", "times", "slices", "regions"):
        if data[setting] and data.layout != "folder":
            raise UserError(
                f"config.data.{setting}={data[setting]!r}: only layout 'folder' has "
                f"it, and this is {data.layout!r}"
            )
    found = LAYOUTS[data.layout].find(name, folder, data)
    found = found._replace(frames=_in_order(found.frames))
    odd = [frame for frame in found.frames if not frame.key.isprintable()]
    if odd:
        readable = [frame for frame in found.frames if frame.key.isprintable()]
        lines = [
            f"{frame.image.path!a}: its name, or its folder's, is not printable text; "
            "rename it"
            for frame in odd
        ]
        found = found._replace(frames=readable, problems=found.problems + lines)
    if not found.frames and not found.problems:
        raise UserError(
            f"{folder}: no frames found; layout {data.layout!r} wants "
            f"{LAYOUTS[data.layout].WANTS}"
        )
    return found


def truth_files(folder: str, paths: Iterable[str]) -> set[str]:
    """Those of the files below a folder that are the truth of others, in any layout."""
    start = len(folder.rstrip("/") + "/") if folder else 0
    inside = [path[start:] for path in paths]
    found = (layout.truth_files(folder, inside) for layout in LAYOUTS.values())
    return set.union(*found)


def look_at_masks(
    data: ml_collections.ConfigDict, frames: list[Frame]
) -> list[mask_survey.MaskFacts]:
    """What some of the masks hold; a few where the layout says how they are read."""
    most = mask_survey.MOST_MASKS if data.layout == "folder" else mask_survey.A_FEW
    return mask_survey.survey(frames, parse(data.mask_values), most, data.labels)


def settle_labels(
    data: ml_collections.ConfigDict,
    frames: list[Frame],
    masks: list[mask_survey.MaskFacts],
    classes: int,
) -> str:
    """Settles `data.labels` by what masks hold; returns the reason, for people.

    Args:
      data: the config's `data` part, which is changed.
      frames: of the data set.
      masks: what some of their masks hold.
      classes: config.model.classes.

    Raises:
      UserError: several readings fit, or the masks contradict the config.
    """
    if data.layout != "folder":
        if data.labels == "auto":
            data.labels = "both" if data.layout == "ctc" else "class"
        return ""
    if any(frame.objects for frame in frames):
        if data.labels not in ("auto", "instance"):
            raise UserError(
                f"config.data.labels={data.labels!r}: each object has a mask of its "
                "own there, which is instance"
            )
        if data.mask_values:
            raise UserError(
                f"config.data.mask_values={data.mask_values!r}: of no use where each "
                "object has a mask of its own"
            )
        data.labels = "instance"
        mask_survey.check_number_of_classes([], data.labels, classes)
        return "each object has a mask of its own"
    value_map = parse(data.mask_values)
    known = value_map.numbers.values()
    if len(frames) <= mask_survey.MOST_MASKS:  # else a value may be in the others
        mask_survey.check_named(masks, value_map)
    reading = mask_survey.reading_of(masks, data.labels, known)
    mask_survey.check_background(masks, reading.labels, known)
    if reading.labels == "binary":
        mask_survey.check_reversed(masks)
    if reading.labels == "class" and not value_map.numbers:
        mask_survey.check_palettes(masks)
    mask_survey.check_number_of_classes(masks, reading.labels, classes)
    data.labels = reading.labels
    return reading.reason


def _in_order(frames: list[Frame]) -> list[Frame]:
    """Sorts each sequence's frames by the numbers in their names.

    Neighbours in a video or a stack stay neighbours, and in the same split.
    """
    place = {
        sequence: i
        for i, sequence in enumerate(dict.fromkeys(frame.sequence for frame in frames))
    }
    return sorted(frames, key=lambda f: (place[f.sequence], natural_key(f.name)))


def read_truth(
    frame: Frame,
    data: ml_collections.ConfigDict,
    classes: int,
    notes: list[str] | None = None,
) -> Truth:
    """The frame's truth.

    Args:
      frame: which.
      data: the config's `data` part.
      classes: how many there are.
      notes: takes in a line on each thing that its owner should look at.

    Raises:
      UserError: unreadable, of a shape other than it should, or with ids beyond the
        classes.
    """
    notes = [] if notes is None else notes
    truth = LAYOUTS[frame.layout].truth(frame, data, notes)
    occurring = np.flatnonzero(count_values(truth.classes, UNLABELLED)[:UNLABELLED])
    if occurring.max(initial=0) >= classes:
        raise UserError(
            f"{frame.label}: class {occurring.max()}, but the config has {classes}, "
            f"0 to {classes - 1}; set --config.model.classes or correct the mask"
        )
    return truth


def read_objects(frame: Frame, truth: Truth) -> Objects:
    """What scores of objects are taken from.

    Args:
      frame: one that `check_frame` has passed.
      truth: as that gave it.

    Raises:
      UserError: markers that can't be read.
    """
    return LAYOUTS[frame.layout].objects(frame, truth)


def check_frame(
    frame: Frame,
    data: ml_collections.ConfigDict,
    *,
    channels: int,
    classes: int,
    notes: list[str] | None = None,
) -> tuple[np.ndarray, Truth]:
    """Reads image and truth and checks that they fit each other.

    Raises:
      UserError: what is wrong with which file.
    """
    is_flat = frame.layout == "ctc" and not ctc_layout.is_slice(frame)
    if is_flat and (pages := count_pages(frame.image.path)) > 1:
        raise UserError(
            f"{frame.image}: {pages} pages, in a sequence whose first labelled image "
            "has one; put stacks into a sequence of their own"
        )
    if data.normalization == "dataset":
        for page in dict.fromkeys(frame.images):
            if is_spread(page):
                raise UserError(
                    f"{page}: not unsigned 8 or 16 bit, so its intensities are spread "
                    "frame by frame; convert it, or use "
                    "config.data.normalization='frame'"
                )
    image = read_images(frame.images, channels, notes, selected=data.channels)
    own = image[..., : channels // len(frame.images)]
    if own.min() == own.max():
        raise UserError(f"{frame.image}: every pixel is {own.flat[0]}; remove it")
    truth = read_truth(frame, data, classes, notes)
    if truth.classes.shape != image.shape[:2]:
        label = frame.label or frame.silver or frame.objects[0]
        raise UserError(
            f"{label}: label {size_text(truth.classes)} px does "
            f"not match the image {frame.image}, {size_text(image)} px (height x width)"
        )
    return image, truth
