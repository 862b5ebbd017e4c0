"""Cell Tracking Challenge: numbered images with gold and silver truth.

    NN/tTTT.tif                      images of sequence NN
    NN_GT/SEG/man_segTTT.tif         gold truth; man_seg_TTT_ZZZ.tif that of a slice
    NN_ST/SEG/man_segTTT.tif         silver truth: complete, but approximate
    NN_GT/TRA/man_trackTTT.tif       markers, one dot a cell

(celltrackingchallenge.net, "Naming and file content conventions".) Where images are
stacks, each labelled slice is a frame.
"""

import collections
import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import ml_collections
import numpy as np

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.images.formats import (
    count_pages,
    neighbours_of,
    read_labels,
    unread,
)
from unet_tfrecords.dataset.images.frames import (
    Frame,
    FrameListing,
    Objects,
    Truth,
    natural_key,
    size_text,
)
from unet_tfrecords.dataset.images.pages import Page
from unet_tfrecords.dataset.pixel_statistics import count_values
from unet_tfrecords.dataset.records import UNLABELLED
from unet_tfrecords.dataset.regions import bounding_boxes, distances_to, narrowed
from unet_tfrecords.storage import files

WANTS = "NN/tTTT.tif with NN_GT/SEG or NN_ST/SEG"

# The challenge scores no object that lies entirely this near to the frame's edge, px
# (celltrackingchallenge.net, evaluation methodology: E of the field of interest).
EDGE_PX = {
    "DIC-C2DH-HeLa": 50,
    "Fluo-C2DL-MSC": 50,
    "Fluo-N2DH-GOWT1": 50,
    "PhC-C2DH-U373": 50,
    "Fluo-N2DL-HeLa": 25,
    "PhC-C2DL-PSC": 25,
}


class Sequence(NamedTuple):
    """The files of a sequence by their numbers, as written.

    Attributes:
      images, markers: by time.
      gold, silver: by time, of whole images.
      gold_slices: by time and slice.
    """

    images: dict[str, str]
    gold: dict[str, str]
    gold_slices: dict[tuple[str, int], str]
    silver: dict[str, str]
    markers: dict[str, str]

    def labelled(self) -> list[str]:
        """Times with any truth."""
        sliced = {time for time, _ in self.gold_slices}
        return sorted(self.gold.keys() | self.silver.keys() | sliced, key=natural_key)


IMAGE = re.compile(r"t\d+\.tiff?", re.IGNORECASE)
TRUTH = re.compile(r"man_seg(_\d+_)?\d+\.tiff?", re.IGNORECASE)  # or of a slice


def _numbered(folder: str, prefix: str) -> dict[str, str]:
    """Files such as man_seg012.tif by their number, as written."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.tiff?$", re.IGNORECASE)
    paths = files.list_files(folder) if folder else []
    named = [(pattern.match(files.basename(p)), p) for p in paths]
    return {match[1]: path for match, path in named if match}


def _sliced(folder: str) -> dict[tuple[str, int], str]:
    """Files such as man_seg_012_034.tif by time, as written, and slice."""
    pattern = re.compile(r"man_seg_(\d+)_(\d+)\.tiff?$", re.IGNORECASE)
    paths = files.list_files(folder) if folder else []
    named = [(pattern.match(files.basename(p)), p) for p in paths]
    return {(match[1], int(match[2])): path for match, path in named if match}


def _sequence(base: str, truth: dict[str, str], labels: str) -> Sequence:
    number = files.basename(base)
    gold = truth.get(f"{number}_gt/seg", "")
    silver = truth.get(f"{number}_st/seg", "")
    return Sequence(
        _numbered(base, "t"),
        {} if labels == "silver" else _numbered(gold, "man_seg"),
        {} if labels == "silver" else _sliced(gold),
        {} if labels == "gold" else _numbered(silver, "man_seg"),
        _numbered(truth.get(f"{number}_gt/tra", ""), "man_track"),
    )


def _truth_folders(folder: str) -> dict[str, str]:
    """Folders of truth by their names in lower case, such as "01_gt/seg".

    Raises:
      UserError: two differ by case alone.
    """
    found: dict[str, str] = {}
    for of_sequence in files.list_folders(folder):
        if not of_sequence.lower().endswith(("_gt", "_st")):
            continue
        for kind in files.list_folders(files.join(folder, of_sequence)):
            path = files.join(folder, of_sequence, kind)
            name = f"{of_sequence}/{kind}".lower()
            if found.setdefault(name, path) != path:
                raise UserError(f"{path}: {found[name]} is there too; keep one")
    return found


def truth_files(folder: str, inside: Iterable[str]) -> set[str]:
    """What is in NN_GT and NN_ST."""
    truth = re.compile(r"(^|/)\d+_(GT|ST)/", re.IGNORECASE)
    return {files.join(folder, name) for name in inside if truth.search(name)}


def find(name: str, folder: str, data: ml_collections.ConfigDict) -> FrameListing:
    """One frame a labelled image, or a labelled slice of a stack."""
    labels = "both" if data.labels == "auto" else data.labels
    if labels not in ("gold", "silver", "both"):
        raise UserError(
            f"config.data.labels={labels!r}: layout 'ctc' knows gold, silver, both"
        )
    wanted = tuple(data.sequences)
    present = [s for s in files.list_folders(folder) if re.fullmatch(r"\d+", s)]
    if lost := [s for s in wanted if s not in present]:
        raise UserError(
            f"{folder}: no sequence {', '.join(lost)}; there is {', '.join(present)}"
        )
    frames, problems, unlabelled, left_out = [], [], 0, list[str]()
    truth = _truth_folders(folder)
    for number in wanted or present:
        base = files.join(folder, number)
        found = _find_in(name, number, base, truth, labels, data.neighbours)
        frames += found.frames
        problems += found.problems
        unlabelled += found.unlabelled
        left_out += found.left_out
    return FrameListing(frames, problems, unlabelled, tuple(left_out))


def _find_in(
    name: str,
    number: str,
    base: str,
    truth: dict[str, str],
    labels: str,
    neighbours: tuple[int, ...],
) -> FrameListing:
    """The frames of one sequence."""
    there = _sequence(base, truth, labels)
    times = there.labelled()
    problems = [
        f"{path}: label without image; {files.join(base, f't{time}.tif')} is missing"
        for time in times
        if time not in there.images
        for path in _labels_of(there, time)[:1]
    ]
    if there.images and not times:
        problems.append(
            f"{base}: {len(there.images)} images but {_no(labels)} labels for them "
            f"in {base}_GT/SEG or {base}_ST/SEG; see config.data.labels"
        )
    masks = [truth.get(f"{number}_{kind}/seg", "") for kind in ("gt", "st")]
    places = [base, *filter(None, masks)]
    problems += _duplicates(places)
    others = [
        path
        for place in places
        for path in files.list_files(place)
        if not (IMAGE if place == base else TRUTH).fullmatch(files.basename(path))
    ]
    problems += dict.fromkeys(line for path in others if (line := unread(path)))
    times = [time for time in times if time in there.images]
    # Stacks or not is a sequence's matter: the first header that can be read tells.
    pages = (_pages(there.images[time]) for time in times)
    stacks = next((number for number in pages if number), 1) > 1
    if not stacks:
        labelled = set(times)
        problems += [
            f"{path}: truth of a slice, but {there.images[time]} is no stack"
            for (time, _), path in there.gold_slices.items()
            if time in labelled
        ]
        times = [t for t in times if t in there.gold or t in there.silver]
    frames: list[Frame] = []
    of_time: dict[str, dict[int, str]] = collections.defaultdict(dict)
    for (time, z), path in there.gold_slices.items():
        of_time[time][z] = path
    for time in times:
        try:
            slices = of_time[time] if stacks else {}
            frames += _frames_of(
                name, number, there, time, gold_slices=slices, stacks=stacks
            )
        except UserError as error:
            problems += error.problems
    if neighbours:
        images = [there.images[t] for t in sorted(there.images, key=natural_key)]
        frames = list(_with_neighbours(frames, images, neighbours))
    left_out = tuple(path for path in others if not unread(path))
    return FrameListing(frames, problems, len(there.images) - len(times), left_out)


def _pages(path: str) -> int:
    try:
        return count_pages(path)
    except UserError:  # a broken file, which will be reported
        return 0


def _no(labels: str) -> str:
    return "neither gold nor silver" if labels == "both" else f"no {labels}"


def _duplicates(folders: Iterable[str]) -> list[str]:
    """Files of the same number with another ending, a line each."""
    problems = []
    for folder in folders:
        first: dict[str, str] = {}
        for path in files.list_files(folder):
            stem, _, ending = files.basename(path).lower().rpartition(".")
            if ending in ("tif", "tiff") and first.setdefault(stem, path) != path:
                problems.append(f"{path}: {first[stem]} has the same name; keep one")
    return problems


def _labels_of(there: Sequence, time: str) -> list[str]:
    whole = [layer[time] for layer in (there.gold, there.silver) if time in layer]
    return whole + [path for (t, _), path in there.gold_slices.items() if t == time]


def _frames_of(
    name: str,
    number: str,
    there: Sequence,
    time: str,
    *,
    gold_slices: dict[int, str],
    stacks: bool,
) -> Iterator[Frame]:
    """The frame of an image, or those of a stack's labelled slices.

    Args:
      gold_slices: truth of single slices of a stack, by their number.
      stacks: whether the sequence has stacks.

    Raises:
      UserError: truth with other slices than the image.
    """
    image = there.images[time]
    depth = count_pages(image) if stacks else 1
    layers = [layer.get(time) for layer in (there.gold, there.silver, there.markers)]
    for path in filter(None, layers if stacks else ()):
        if (pages := count_pages(path)) != depth:
            raise UserError(f"{path}: {pages} slices, but {image} has {depth}")
    beyond = [
        f"{path}: label without image; {image} has {depth} slices"
        for z, path in gold_slices.items()
        if z >= depth
    ]
    if beyond:
        raise UserError(beyond)
    for z in range(depth):
        gold, silver, markers = (Page(path, z) if path else None for path in layers)
        if z in gold_slices:
            gold = Page(gold_slices[z])
        if gold or silver:
            key = f"t{time}-z{z:03d}" if stacks else f"t{time}"
            truth = gold, silver, markers
            yield Frame(name, number, key, "ctc", Page(image, z), *truth)


def _with_neighbours(
    frames: Iterable[Frame], images: list[str], offsets: tuple[int, ...]
) -> Iterator[Frame]:
    """Gives slices those beside them, and images those before and after.

    Args:
      frames: of one sequence, those of a stack in a row.
      images: of the sequence in order, labelled or not.
      offsets: config.data.neighbours.
    """
    video = [Page(path) for path in images]
    place_of = {path: place for place, path in enumerate(images)}
    for path, those in itertools.groupby(frames, key=lambda frame: frame.image.path):
        slices: list[Page] = []
        for frame in those:
            pages, place = video, place_of[path]
            if is_slice(frame):
                slices = slices or [Page(path, z) for z in range(count_pages(path))]
                pages, place = slices, frame.image.number
            beside = neighbours_of(pages, place, offsets)
            yield dataclasses.replace(frame, neighbours=beside)


def is_slice(frame: Frame) -> bool:
    """Whether a frame is a slice of a stack."""
    return "-z" in frame.name


def truth(frame: Frame, data: ml_collections.ConfigDict, notes: list[str]) -> Truth:
    """Gold first; where gold lacks a cell, silver's; where both do, unlabelled."""
    pages = [page for page in (frame.label, frame.silver) if page]
    layers = [read_labels(page, notes=notes) for page in pages]
    markers = read_labels(frame.markers) if frame.markers else np.zeros_like(layers[0])
    for page, layer in zip(
        [*pages[1:], frame.markers], [*layers[1:], markers], strict=True
    ):
        if layer.shape != layers[0].shape:
            raise UserError(
                f"{page}: {size_text(layer)} px, but {pages[0]} has "
                f"{size_text(layers[0])} px"
            )
    instances = layers[0]
    for layer in layers[1:]:
        instances = add_missing_instances(instances, layer)
    classes = (instances > 0).view(np.uint8)
    classes[unlabelled_surroundings(instances, markers)] = UNLABELLED
    return Truth(narrowed(instances), classes)


def objects(frame: Frame, truth: Truth) -> Objects:
    """Gold outlines alone, and markers, as the challenge's own SEG and DET."""
    exact, markers = (
        read_labels(page) if page else None for page in (frame.label, frame.markers)
    )
    return Objects(exact, markers)


def add_missing_instances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Instances of `second` that `first` hasn't, added to it where it has background.

    An instance counts as already there when more than a tenth of it is labelled.

    Args:
      first, second: uint16 or int32 [H, W].

    Returns:
      int32 [H, W].
    """
    area = count_values(second)
    covered = count_values(np.where(first > 0, second, 0), len(area))
    missing = (area > 0) & (covered <= 0.1 * area)
    missing[0] = False
    added = missing[second] & (first == 0)
    return np.where(added, second.astype(np.int32) + int(first.max()), first)


def unlabelled_surroundings(instances: np.ndarray, markers: np.ndarray) -> np.ndarray:
    """Pixels that may belong to a cell which has a marker and no label.

    A cell counts as labelled when most of its marker is. Of one that isn't nobody knows
    the outline: all unlabelled pixels within the longest
    labelled cell's length of its marker are taken, or all there are where no cell of
    the frame is labelled.

    Args:
      instances: [H, W], the labelled cells.
      markers: [H, W], one dot a cell.

    Returns:
      bool [H, W].
    """
    area = count_values(markers)
    labelled = count_values(np.where(instances > 0, markers, 0), len(area))
    orphans = (area > 0) & (2 * labelled <= area)
    orphans[0] = False
    if not (orphans.any() and instances.any()):
        return np.full(instances.shape, orphans.any())
    _, boxes = bounding_boxes(instances)
    longest = (boxes[:, 2:] - boxes[:, :2]).max()
    return (distances_to(orphans[markers]) <= longest) & (instances == 0)
