"""Data sets as they lie on disk: one adapter per layout.

An adapter answers two questions: which frames are there, and what is their truth.

| layout   | files                                                                   |
|----------|-------------------------------------------------------------------------|
| `isbi`   | `train-volume.tif`, `train-labels.tif` (0 membrane, else cell interior)   |
| `ctc`    | `NN/tXXX.tif`, `NN_GT/SEG/man_segXXX.tif` (gold), `NN_ST/SEG/` (silver), |
|          | `NN_GT/TRA/man_trackXXX.tif` (markers); celltrackingchallenge.net       |
| `folder` | `images/NAME.*`, `masks/NAME.*`                                         |
"""

import dataclasses
import os
import re
from collections.abc import Callable
from typing import NamedTuple

import cv2
import ml_collections
import numpy as np

from preprocess import files
from preprocess.errors import UserError
from preprocess.images import (
    Page,
    count_pages,
    is_image,
    is_lossy,
    read_image,
    read_labels,
)
from preprocess.records import UNLABELLED


@dataclasses.dataclass(frozen=True)
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

    @property
    def key(self) -> str:
        return f"{self.dataset}/{self.sequence}/{self.name}"

    @property
    def pages(self) -> list[Page]:
        """Everything that the frame is made from."""
        pages = (self.image, self.label, self.silver, self.markers)
        return [page for page in pages if page]


class Found(NamedTuple):
    """What lies in a folder.

    Attributes:
      frames: the labelled frames, in order of sequence and name.
      problems: files that should belong to a frame and don't, a line each.
    """

    frames: list[Frame]
    problems: list[str]


class Truth(NamedTuple):
    """What is known of a frame.

    Attributes:
      instances: int32 [H, W], 0 is background; numbers mean nothing but identity.
      classes: uint8 [H, W], 0 is background, 255 is unlabelled.
    """

    instances: np.ndarray
    classes: np.ndarray


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


def look_for_frames(data: ml_collections.ConfigDict, folder: str) -> Found:
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
    found = LAYOUTS[data.layout].find(name, folder, data)
    if not found.frames and not found.problems:
        raise UserError(
            f"{folder}: no frames found; layout {data.layout!r} wants "
            f"{LAYOUTS[data.layout].wants}"
        )
    return found


def read_frame(frame: Frame, channels: int) -> np.ndarray:
    """The frame's pixels, uint8 or uint16 [H, W, channels]."""
    return read_image(frame.image, channels)


def read_truth(frame: Frame, data: ml_collections.ConfigDict, classes: int) -> Truth:
    """The frame's truth.

    Raises:
      UserError: unreadable, of a shape other than it should, or with ids beyond the
        classes.
    """
    truth = LAYOUTS[frame.layout].truth(frame, data)
    known = truth.classes[truth.classes != UNLABELLED]
    if known.size and known.max() >= classes:
        raise UserError(
            f"{frame.label}: class {known.max()}, but the config has {classes}, "
            f"0 to {classes - 1}; set --config.model.classes or mend the mask"
        )
    return truth


def check_frame(
    frame: Frame, data: ml_collections.ConfigDict, *, channels: int, classes: int
) -> tuple[np.ndarray, Truth]:
    """Reads image and truth and checks that they fit each other.

    Raises:
      UserError: what is wrong with which file.
    """
    if frame.layout == "ctc" and (pages := count_pages(frame.image.path)) > 1:
        raise UserError(
            f"{frame.image}: {pages} pages, so this is a 3D set; save its slices as "
            "2D files, or as stacks in the layout 'folder'"
        )
    image = read_frame(frame, channels)
    if image.min() == image.max():
        raise UserError(f"{frame.image}: every pixel is {image.flat[0]}; remove it")
    truth = read_truth(frame, data, classes)
    if truth.classes.shape != image.shape[:2]:
        raise UserError(
            f"{frame.label or frame.silver}: label {_size(truth.classes)} px does not "
            f"match the image {frame.image}, {_size(image)} px (height x width)"
        )
    return image, truth


def _size(image: np.ndarray) -> str:
    return f"{image.shape[0]} x {image.shape[1]}"


def connected_instances(classes: np.ndarray) -> np.ndarray:
    """Numbers the connected pieces of each foreground class, int32 [H, W].

    Pieces connect over edges and not over corners: a membrane one pixel wide that
    runs diagonally still separates.
    """
    instances = np.zeros(classes.shape, np.int32)
    for value in np.unique(classes):
        if value in (0, UNLABELLED):
            continue
        mask = (classes == value).astype(np.uint8)
        count, pieces = cv2.connectedComponents(mask, connectivity=4)
        instances[mask > 0] = pieces[mask > 0] + instances.max()
    return instances


# --- ISBI 2012: two multi-page stacks ------------------------------------------------


def _find_isbi(name: str, folder: str, data: ml_collections.ConfigDict) -> Found:
    volume = files.join(folder, "train-volume.tif")
    labels = files.join(folder, "train-labels.tif")
    if missing := [path for path in (volume, labels) if not files.exists(path)]:
        raise UserError([f"{path}: missing; see {folder}'s layout" for path in missing])
    pages, label_pages = count_pages(volume), count_pages(labels)
    if pages != label_pages:
        raise UserError(
            f"{labels}: {label_pages} pages, but {volume} has {pages}; "
            "both stacks need one page a slice"
        )
    frames = [
        Frame(name, "stack", f"z{i:03d}", "isbi", Page(volume, i), Page(labels, i))
        for i in range(pages)
    ]
    return Found(frames, [])


def _isbi_truth(frame: Frame, data: ml_collections.ConfigDict) -> Truth:
    assert frame.label is not None
    classes = (read_labels(frame.label) > 0).astype(np.uint8)
    return Truth(connected_instances(classes), classes)


# --- Cell Tracking Challenge ---------------------------------------------------------


def _numbered(folder: str, prefix: str) -> dict[str, str]:
    """Files such as man_seg012.tif by their number, as written."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.tiff?$")
    named = [(pattern.match(files.basename(p)), p) for p in files.list_files(folder)]
    return {match[1]: path for match, path in named if match}


def _find_ctc(name: str, folder: str, data: ml_collections.ConfigDict) -> Found:
    if data.labels not in ("gold", "silver", "both"):
        raise UserError(
            f"config.data.labels={data.labels!r}: layout 'ctc' knows gold, silver, both"
        )
    wanted = tuple(data.sequences)
    found = [s for s in files.list_folders(folder) if re.fullmatch(r"\d+", s)]
    if lost := [s for s in wanted if s not in found]:
        raise UserError(
            f"{folder}: no sequence {', '.join(lost)}; there is {', '.join(found)}"
        )
    frames: list[Frame] = []
    problems: list[str] = []
    for sequence in wanted or found:
        base = files.join(folder, sequence)
        images = _numbered(base, "t")
        gold = _numbered(files.join(base + "_GT", "SEG"), "man_seg")
        silver = _numbered(files.join(base + "_ST", "SEG"), "man_seg")
        markers = _numbered(files.join(base + "_GT", "TRA"), "man_track")
        gold = {} if data.labels == "silver" else gold
        silver = {} if data.labels == "gold" else silver
        labelled = sorted(gold.keys() | silver.keys())
        problems += [
            f"{gold.get(n) or silver[n]}: label without image; "
            f"{files.join(base, f't{n}.tif')} is missing"
            for n in labelled
            if n not in images
        ]
        if images and not labelled:
            problems.append(
                f"{base}: {len(images)} images but no {data.labels} labels "
                f"in {base}_GT/SEG or {base}_ST/SEG; see config.data.labels"
            )
        frames += [
            Frame(
                name,
                sequence,
                f"t{n}",
                "ctc",
                Page(images[n]),
                Page(gold[n]) if n in gold else None,
                Page(silver[n]) if n in silver else None,
                Page(markers[n]) if n in markers else None,
            )
            for n in labelled
            if n in images
        ]
    return Found(frames, problems)


def _ctc_truth(frame: Frame, data: ml_collections.ConfigDict) -> Truth:
    """Gold first; where gold lacks a cell, silver's; where both do, unlabelled."""
    pages = [page for page in (frame.label, frame.silver) if page]
    layers = [read_labels(page) for page in pages]
    markers = read_labels(frame.markers) if frame.markers else np.zeros_like(layers[0])
    for page, layer in zip(
        [*pages[1:], frame.markers], [*layers[1:], markers], strict=True
    ):
        if layer.shape != layers[0].shape:
            raise UserError(
                f"{page}: {_size(layer)} px, but {pages[0]} has {_size(layers[0])} px"
            )
    instances = layers[0]
    for layer in layers[1:]:
        instances = add_missing_instances(instances, layer)
    classes = (instances > 0).astype(np.uint8)
    classes[unlabelled_surroundings(instances, markers)] = UNLABELLED
    return Truth(instances, classes)


def add_missing_instances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Instances of `second` that `first` hasn't, added to it where it has background.

    An instance counts as already there when more than a tenth of it is labelled.

    Args:
      first, second: int32 [H, W].

    Returns:
      int32 [H, W].
    """
    area = np.bincount(second.ravel())
    covered = np.bincount(second[first > 0], minlength=area.size)
    missing = (area > 0) & (covered <= 0.1 * area)
    missing[0] = False
    added = missing[second] & (first == 0)
    return np.where(added, second + first.max(), first)


def unlabelled_surroundings(instances: np.ndarray, markers: np.ndarray) -> np.ndarray:
    """Pixels that may belong to a cell which has a marker and no label.

    A cell counts as labelled when most of its marker is. Of one that isn't nobody knows
    the outline: all unlabelled pixels within the longest
    labelled cell's length of its marker are taken, or all there are where no cell of
    the frame is labelled.

    Args:
      instances: int32 [H, W], the labelled cells.
      markers: int32 [H, W], one dot a cell.

    Returns:
      bool [H, W].
    """
    area = np.bincount(markers.ravel())
    labelled = np.bincount(markers[instances > 0], minlength=area.size)
    orphan = (markers > 0) & (2 * labelled <= area)[markers]
    if not orphan.any():
        return np.zeros(instances.shape, bool)
    if not instances.any():
        return np.ones(instances.shape, bool)
    distance = cv2.distanceTransform(
        (~orphan).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    )
    return (distance <= _longest_side(instances)) & (instances == 0)


def _longest_side(instances: np.ndarray) -> int:
    from preprocess.weights import bounding_boxes

    boxes = [box for _, box in bounding_boxes(instances)]
    return max(max(b - t, r - left) for t, left, b, r in boxes)


# --- A plain folder ------------------------------------------------------------------


def _by_stem(folder: str, suffix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for path in filter(is_image, files.list_files(folder)):
        stem = os.path.splitext(files.basename(path))[0]
        if stem.endswith(suffix):
            stem = stem[: len(stem) - len(suffix)]
            if stem in found:
                raise UserError(f"{path}: {found[stem]} has the same name; keep one")
            found[stem] = path
    return found


def _find_folder(name: str, folder: str, data: ml_collections.ConfigDict) -> Found:
    if data.labels not in ("binary", "class", "instance"):
        raise UserError(
            f"config.data.labels={data.labels!r}: layout 'folder' knows binary "
            "(not 0 is foreground), class (the value is the class, 255 unlabelled) "
            "and instance (one value a cell)"
        )
    images = _by_stem(files.join(folder, "images"))
    masks = _by_stem(files.join(folder, "masks"), data.mask_suffix)
    problems = [
        f"{images[stem]}: image without mask; add "
        f"{files.join(folder, 'masks', stem + data.mask_suffix)}.* or remove it"
        for stem in sorted(images.keys() - masks.keys())
    ]
    problems += [
        f"{masks[stem]}: mask without image; add {files.join(folder, 'images', stem)}.*"
        for stem in sorted(masks.keys() - images.keys())
    ]
    frames = []
    for stem in sorted(images.keys() & masks.keys()):
        try:
            pages, mask_pages = count_pages(images[stem]), count_pages(masks[stem])
        except UserError as error:
            problems += error.problems
            continue
        if pages != mask_pages:
            problems.append(
                f"{masks[stem]}: {mask_pages} pages, but {images[stem]} has {pages}"
            )
            continue
        names = [stem] if pages == 1 else [f"{stem}-z{i:03d}" for i in range(pages)]
        frames += [
            Frame(
                name, "folder", n, "folder", Page(images[stem], i), Page(masks[stem], i)
            )
            for i, n in enumerate(names)
        ]
    return Found(frames, problems)


def _folder_truth(frame: Frame, data: ml_collections.ConfigDict) -> Truth:
    assert frame.label is not None
    labels = read_labels(frame.label)
    if is_lossy(frame.label.path):
        if data.labels != "binary":
            raise UserError(
                f"{frame.label}: JPEG changes pixel values, and so the labels; "
                "save the mask as PNG or TIFF"
            )
        labels = labels > 127  # compression leaves small values around the edges
    if data.labels == "instance":
        return Truth(labels, (labels > 0).astype(np.uint8))
    if data.labels == "class" and labels.max() > UNLABELLED:
        raise UserError(f"{frame.label}: class {labels.max()}; classes end at 254")
    classes = (labels > 0) if data.labels == "binary" else labels
    classes = classes.astype(np.uint8)
    return Truth(connected_instances(classes), classes)


class Layout(NamedTuple):
    """An adapter: how to find frames, how to read their truth, what it looks for."""

    find: Callable[[str, str, ml_collections.ConfigDict], Found]
    truth: Callable[[Frame, ml_collections.ConfigDict], Truth]
    wants: str


LAYOUTS = {
    "isbi": Layout(_find_isbi, _isbi_truth, "train-volume.tif and train-labels.tif"),
    "ctc": Layout(_find_ctc, _ctc_truth, "NN/tXXX.tif with NN_GT/SEG or NN_ST/SEG"),
    "folder": Layout(_find_folder, _folder_truth, "images/NAME.* and masks/NAME.*"),
}
