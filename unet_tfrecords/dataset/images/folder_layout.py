"""People's own images and masks, in any of the `arrangements`; stacks by page."""

import collections
import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import ml_collections
import numpy as np

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.images.arrangements import (
    ARRANGEMENTS,
    arranged,
    masks_among,
)
from unet_tfrecords.dataset.images.formats import (
    check_alike,
    count_pages,
    header_of,
    pages_of,
    read_mask,
)
from unet_tfrecords.dataset.images.frames import (
    Frame,
    FrameListing,
    Objects,
    Truth,
    size_text,
)
from unet_tfrecords.dataset.images.mask_values import (
    check_classes,
    check_colours,
    check_instances,
    check_object,
    check_rims,
    foreground_of,
)
from unet_tfrecords.dataset.images.pages import Page, Planes
from unet_tfrecords.dataset.images.slide_regions import (
    LABELLED,
    check_inside,
    labelled_regions,
    regions_in_table,
)
from unet_tfrecords.dataset.images.value_map import parse
from unet_tfrecords.dataset.records import UNLABELLED
from unet_tfrecords.dataset.regions import Box, connected_instances, narrowed
from unet_tfrecords.storage import files

UNGROUPED = "folder"  # the sequence of all frames, where the config names no groups
WANTS = ", or ".join(ARRANGEMENTS)


def _page_like(stems: Iterable[str]) -> dict[str, str]:
    """Names that look like a page of another, by that other's name.

    >>> _page_like(["a", "a-z1", "b-z-z2"])
    {'a': 'a-z1', 'b': 'b-z-z2', 'b-z': 'b-z-z2'}
    """
    found: dict[str, str] = {}
    for stem in stems:
        for mark in re.finditer("-z", stem):
            found.setdefault(stem[: mark.start()], stem)
    return found


def find(name: str, folder: str, data: ml_collections.ConfigDict) -> FrameListing:
    """One frame an image, or a page of a stack."""
    if data.labels not in ("auto", "binary", "class", "instance"):
        raise UserError(
            f"config.data.labels={data.labels!r}: layout 'folder' knows auto, binary "
            "(not 0 is foreground), class (the value is the class, 255 unlabelled) "
            "and instance (one value a cell)"
        )
    group_of = _grouping(data.group)
    there = arranged(folder, data.mask_suffix)
    images: dict[str, str] = {}
    masks: dict[str, tuple[str, ...]] = {}
    problems: list[str] = []
    for pairs in there.pairs:
        problems += pairs.problems
        problems += [
            f"{pairs.images[stem]}: image without mask; add {pairs.wanted(stem)[0]} or "
            "remove it"
            for stem in sorted(pairs.images.keys() - pairs.masks.keys())
        ]
        problems += [
            f"{pairs.masks[stem][0]}: mask without image; add {pairs.wanted(stem)[1]}"
            for stem in sorted(pairs.masks.keys() - pairs.images.keys())
        ]
        images |= pairs.images
        masks |= pairs.masks
    tables: dict[str, list[Box]] = {}
    named = parse(data.mask_values).numbers.values()
    if data.regions == LABELLED and None not in named and data.labels != "class":
        raise UserError(
            f"config.data.regions={LABELLED!r}: say which value of masks is "
            "unlabelled, as --config.data.mask_values='255=unlabelled'"
        )
    if data.regions not in ("", LABELLED):
        tables, lines = _table_of(folder, data.regions, images)
        problems += lines
    frames = []
    page_like = _page_like(images)
    planes = Planes(data.level, tuple(data.times), tuple(data.slices))
    for stem in sorted(images.keys() & masks.keys()):
        image, mask = images[stem], masks[stem]
        try:
            found = pages_of(image, planes)
            pages = count_pages(image)
            if len(mask) > 1:
                _check_single(mask)
            elif pages > 1:
                check_alike(image, mask[0])
            if len(mask) == 1 and (mask_pages := count_pages(mask[0])) != pages:
                problems.append(
                    f"{mask[0]}: {mask_pages} pages, but {image} has {pages}"
                )
                continue
        except UserError as error:
            problems += error.problems
            continue
        if pages > 1 and len(mask) > 1:
            problems.append(f"{image}: {pages} pages, where each object has a mask")
            continue
        if pages > 1 and stem in page_like:
            like = images[page_like[stem]]
            problems.append(f"{like}: named like a page of {image}; rename it")
            continue
        group = group_of(stem)
        if group is None:
            problems.append(
                f"{image}: config.data.group={data.group!r} matches nothing in {stem!r}"
            )
            continue
        for page in found:
            own = stem if pages == 1 else f"{stem}-z{page.number:03d}"
            truth = [page._replace(path=path) for path in mask]
            if not data.regions:
                frames.append(_frame_of((name, group, own), page, truth))
                continue
            try:
                boxes = _regions_of(page, truth, data, tables.get(image, []))
            except UserError as error:
                problems += error.problems
                continue
            for box in boxes:
                place = f"{own}-y{box[0]:06d}-x{box[1]:06d}"
                parts = [each._replace(window=box) for each in (page, *truth)]
                frames.append(_frame_of((name, group, place), parts[0], parts[1:]))
    problems += _differing_in_case({frame.sequence for frame in frames})
    if any(frame.objects for frame in frames):  # so are frames of a single object
        frames = [
            dataclasses.replace(f, label=None, objects=(f.label,)) if f.label else f
            for f in frames
        ]
    return FrameListing(
        frames, problems, left_out=there.left_out, arrangement=there.name
    )


def _table_of(
    folder: str, name: str, images: Mapping[str, str]
) -> tuple[dict[str, list[Box]], list[str]]:
    """A table's rectangles by the path of the image, and what is wrong, a line each."""
    path = name if files.is_remote(name) else files.join(folder, name)
    start = len(folder.rstrip("/")) + 1
    by_name = {image[start:]: image for image in images.values()} | dict(images)
    found = regions_in_table(path)
    problems = [
        f"{path}: no image with a mask in {folder} is named {file}; write its path "
        "below that folder, with /"
        for file in found
        if file not in by_name
    ]
    known: dict[str, list[Box]] = {}
    for file, boxes in found.items():
        if file in by_name:
            known.setdefault(by_name[file], []).extend(boxes)
    return known, problems


def _regions_of(
    image: Page, masks: list[Page], data: ml_collections.ConfigDict, listed: list[Box]
) -> list[Box]:
    """The regions of an image that are frames.

    Raises:
      UserError: they can't be.
    """
    if len(masks) > 1:
        raise UserError(
            f"{image}: config.data.regions={data.regions!r} wants one mask, and here "
            "each object has its own"
        )
    sizes = [(each.height, each.width) for each in map(header_of, (image, masks[0]))]
    if sizes[0] != sizes[1]:
        shown = [f"{height} x {width} px" for height, width in sizes]
        raise UserError(
            f"{masks[0]}: {shown[1]}, but {image} has {shown[0]} (height x width)"
        )
    if data.regions != LABELLED:
        check_inside(image, listed)
        return listed

    def is_labelled(part: Page) -> np.ndarray | None:
        labels, unlabelled, _ = _numbers_of(part, data, [])
        if data.labels == "class":
            more = labels == UNLABELLED
            unlabelled = more if unlabelled is None else unlabelled | more
        return None if unlabelled is None else ~unlabelled

    return labelled_regions(masks[0], is_labelled)


def _check_single(masks: Iterable[str]) -> None:
    """Refuses masks of single objects that are stacks.

    Raises:
      UserError: a line each.
    """
    several = {path: pages for path in masks if (pages := count_pages(path)) > 1}
    if several:
        raise UserError(
            [
                f"{path}: {pages} pages, where each object has a mask of its own; save "
                "each page as a file"
                for path, pages in several.items()
            ]
        )


def _frame_of(identity: tuple[str, str, str], image: Page, masks: list[Page]) -> Frame:
    if len(masks) == 1:
        return Frame(*identity, "folder", image, masks[0])
    return Frame(*identity, "folder", image, objects=tuple(masks))


def _grouping(pattern: str) -> Callable[[str], str | None]:
    """How an image's group is found from its path without ending.

    Args:
      pattern: config.data.group; its first group is taken, or all that matches.

    Returns:
      A function; None of a path that does not match.

    Raises:
      UserError: no regular expression.

    >>> _grouping(r"p\\d+")("plates/p07_A1"), _grouping("^(.+)/")("p1/a")
    ('p07', 'p1')
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"config.data.group={pattern!r}: no regular expression: {error}"
        ) from error

    def group_of(stem: str) -> str | None:
        match = compiled.search(stem)
        return match[1 if compiled.groups else 0] if match else None

    return group_of if pattern else lambda stem: UNGROUPED


def _differing_in_case(groups: Iterable[str]) -> list[str]:
    """Groups whose names differ in case alone, a line each: they may be one."""
    first: dict[str, str] = {}
    return [
        f"config.data.group finds both {first[group.lower()]!r} and {group!r}; rename "
        "the images of one, so that it is clear whether they are one group"
        for group in sorted(groups)
        if first.setdefault(group.lower(), group) != group
    ]


def truth_files(folder: str, inside: Sequence[str]) -> set[str]:
    """Files below a folder that look like masks of others."""
    return {files.join(folder, name) for name in masks_among(inside)}


def truth(frame: Frame, data: ml_collections.ConfigDict, notes: list[str]) -> Truth:
    """Masks as `config.data.labels` says that they are to be read."""
    if frame.objects:
        return _from_objects(frame, notes)
    assert frame.label is not None
    name, known = str(frame.label), parse(data.mask_values).numbers.values()
    labels, unlabelled, has_colours = _numbers_of(frame.label, data, notes)
    if data.labels == "instance":
        if has_colours:
            labels = _counted(labels)
        check_instances(labels, name, known)
        classes = (labels > 0).view(np.uint8)
    elif data.labels == "class":
        check_classes(labels, name)
        classes = _class_numbers(labels, name)
    elif has_colours:
        check_rims(labels, name)
        classes = (labels > 0).view(np.uint8)
    else:
        classes = foreground_of(labels, name, notes).view(np.uint8)
    if unlabelled is not None:
        classes[unlabelled] = UNLABELLED
    if data.labels == "instance":
        return Truth(narrowed(labels), classes)
    del labels, unlabelled  # a large frame's memory is needed for what follows
    return Truth(connected_instances(classes), classes)


def _numbers_of(
    page: Page, data: ml_collections.ConfigDict, notes: list[str]
) -> tuple[np.ndarray, np.ndarray | None, bool]:
    """A mask's numbers, where it is unlabelled, and whether they are colours."""
    value_map = parse(data.mask_values)
    mask = read_mask(
        page,
        exact=data.labels != "binary" or bool(value_map.numbers),
        as_colours=value_map.of_colours,
        whole_palette=data.labels != "binary",
        notes=notes,
    )
    has_colours = mask.has_colours and not value_map.of_colours
    if has_colours:
        check_colours(mask.values, data.labels, str(page))
    return (*value_map.applied(mask, str(page)), has_colours)


def _counted(labels: np.ndarray) -> np.ndarray:
    """The same regions, numbered without gaps; 0 stays."""
    _, numbers = np.unique(labels, return_inverse=True)
    return numbers.reshape(labels.shape).astype(np.int32)


def _class_numbers(labels: np.ndarray, name: str) -> np.ndarray:
    if labels.max() > UNLABELLED:
        raise UserError(f"{name}: class {labels.max()}; classes end at 254")
    return labels.astype(np.uint8)


def _from_objects(frame: Frame, notes: list[str]) -> Truth:
    """Puts masks of single objects together; the first one keeps a shared pixel.

    Raises:
      UserError: a mask of another size; or one that is no single object.
    """
    instances: np.ndarray | None = None
    overlaps = 0
    inside_of: collections.Counter[int] = collections.Counter()
    for number, page in enumerate(frame.objects, 1):
        mask = _object_of(page, notes)
        if instances is None:
            instances = np.zeros(mask.shape, np.int32)
        if mask.shape != instances.shape:
            raise UserError(
                f"{page}: {size_text(mask)} px, but {frame.objects[0]} has "
                f"{size_text(instances)} px"
            )
        if not mask.any():
            notes.append(f"masks without an object: {page}")
            continue
        check_object(mask, str(page))
        shared = instances[mask]
        overlaps += int((shared > 0).sum())
        if (shared > 0).all():
            inside_of[int(shared[0])] += 1
        around = [
            n for n in np.unique(shared[shared > 0]) if _is_all_in(n, instances, mask)
        ]
        inside_of[number] += len(around)
        instances[mask & (instances == 0)] = number
    for number, times in inside_of.items():
        if times > 1:
            raise UserError(
                f"{frame.objects[number - 1]}: has {times} of the other objects in it; "
                "each mask must be a single object"
            )
    assert instances is not None
    if overlaps:
        notes.append(
            f"masks of objects overlap, the first by name has the pixel: {overlaps} px"
        )
    return Truth(narrowed(instances), (instances > 0).view(np.uint8))


def _object_of(page: Page, notes: list[str]) -> np.ndarray:
    """The pixels of a single object, bool [H, W]; any colour but black is one."""
    mask = read_mask(page, exact=False)
    if not mask.has_colours:
        return foreground_of(mask.values, str(page), notes)
    try:
        check_colours(mask.values, "instance", str(page))
    except UserError:
        raise UserError(
            f"{page}: a mask of a single object is one colour on black"
        ) from None
    return mask.values > 0


def _is_all_in(number: int, instances: np.ndarray, mask: np.ndarray) -> bool:
    return not ((instances == number) & ~mask).any()


def objects(frame: Frame, truth: Truth) -> Objects:
    """All instances of the mask, as outlines and as markers."""
    return Objects(truth.instances, truth.instances, truth.classes == UNLABELLED)
