"""People's own images: `images/NAME.*` and `masks/NAME.*`; stacks by page."""

import os
import re
from collections.abc import Iterable

import ml_collections
import numpy as np

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.images.formats import (
    count_pages,
    is_image,
    read_labels,
    unread,
)
from unet_tfrecords.dataset.images.frames import Frame, FrameListing, Objects, Truth
from unet_tfrecords.dataset.images.mask_values import check_instances, foreground_of
from unet_tfrecords.dataset.images.pages import Page
from unet_tfrecords.dataset.records import UNLABELLED
from unet_tfrecords.dataset.regions import connected_instances
from unet_tfrecords.storage import files

WANTS = "images/NAME.* and masks/NAME.*"


def _by_stem(
    folder: str, problems: list[str], left_out: list[str], suffix: str = ""
) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in files.list_files(folder):
        if not is_image(path):
            line = unread(path)
            problems += [line] if line else []
            left_out += [] if line else [path]
            continue
        stem = os.path.splitext(files.basename(path))[0]
        if stem.endswith(suffix):
            stem = stem[: len(stem) - len(suffix)]
            if stem in found:
                problems.append(f"{path}: {found[stem]} has the same name; keep one")
            else:
                found[stem] = path
    return found


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
    problems: list[str] = []
    left_out: list[str] = []
    images = _by_stem(files.join(folder, "images"), problems, left_out)
    masks = _by_stem(files.join(folder, "masks"), problems, left_out, data.mask_suffix)
    problems += [
        f"{images[stem]}: image without mask; add "
        f"{files.join(folder, 'masks', stem + data.mask_suffix)}.* or remove it"
        for stem in sorted(images.keys() - masks.keys())
    ]
    problems += [
        f"{masks[stem]}: mask without image; add {files.join(folder, 'images', stem)}.*"
        for stem in sorted(masks.keys() - images.keys())
    ]
    frames = []
    page_like = _page_like(images)
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
        if pages > 1 and stem in page_like:
            like = images[page_like[stem]]
            problems.append(f"{like}: named like a page of {images[stem]}; rename it")
            continue
        names = [stem] if pages == 1 else [f"{stem}-z{i:03d}" for i in range(pages)]
        frames += [
            Frame(
                name, "folder", n, "folder", Page(images[stem], i), Page(masks[stem], i)
            )
            for i, n in enumerate(names)
        ]
    return FrameListing(frames, problems, left_out=tuple(left_out))


def truth(frame: Frame, data: ml_collections.ConfigDict, notes: list[str]) -> Truth:
    """Masks as `config.data.labels` says that they are to be read."""
    assert frame.label is not None
    name = str(frame.label)
    labels = read_labels(frame.label, exact=data.labels != "binary", notes=notes)
    if data.background:
        labels[np.isin(labels, data.background)] = 0
    if data.labels == "instance":
        check_instances(labels, name)
        return Truth(labels, (labels > 0).view(np.uint8))
    if data.labels == "binary":
        classes = foreground_of(labels, name, notes).view(np.uint8)
    elif labels.max() > UNLABELLED:
        raise UserError(f"{frame.label}: class {labels.max()}; classes end at 254")
    else:
        classes = labels.astype(np.uint8)
    del labels  # a large frame's memory is needed for what follows
    return Truth(connected_instances(classes), classes)


def objects(frame: Frame, truth: Truth) -> Objects:
    """All instances of the mask, as outlines and as markers."""
    return Objects(truth.instances, truth.instances, truth.classes == UNLABELLED)
