"""How people arrange their own images and masks in folders.

Each arrangement is a function that finds pairs in a folder, or none. A new one is a
function and a line in `ARRANGEMENTS`.
"""

import os
from collections.abc import Callable
from typing import NamedTuple

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.images.formats import is_image, unread
from unet_tfrecords.storage import files

MASK_FOLDERS = ("masks", "labels")
# Longer ones first: _cp_masks ends with _masks.
MASK_SUFFIXES = ("_cp_masks", "_masks", "_mask", "_labels", "_label", "_seg")
NNUNET_CHANNEL = "_0000"


class Files:
    """Images below a folder, and what else is there.

    Attributes:
      problems: images that are not read, and files of one name, a line each.
      left_out: files that are no images.
    """

    def __init__(self):
        self.problems: list[str] = []
        self.left_out: list[str] = []

    def by_stem(self, folder: str, suffix: str = "") -> dict[str, str]:
        """Images of a folder whose names end with a suffix, by what is before it."""
        found: dict[str, str] = {}
        for path in self.images_in(folder):
            stem = os.path.splitext(files.basename(path))[0]
            if not stem.endswith(suffix):
                continue
            stem = stem[: len(stem) - len(suffix)]
            if found.setdefault(stem, path) != path:
                self.problems.append(
                    f"{path}: {found[stem]} has the same name; keep one"
                )
        return found

    def images_in(self, folder: str) -> list[str]:
        """Images directly inside a folder."""
        found = []
        for path in files.list_files(folder):
            if is_image(path):
                found.append(path)
            elif line := unread(path):
                self.problems.append(line)
            else:
                self.left_out.append(path)
        return found


class Pairs(NamedTuple):
    """Images and masks by name.

    Attributes:
      images: a file each.
      masks: a file each, or several, one an object.
      wanted: where the mask of an image is looked for, and the image of a mask.
    """

    images: dict[str, str]
    masks: dict[str, tuple[str, ...]]
    wanted: Callable[[str], tuple[str, str]]


def _in_two_folders(
    there: Files, folder: str, kinds: set[str], suffix: str
) -> Pairs | None:
    """images/NAME.* with masks/NAME.* or labels/NAME.*; NAME_mask.* is taken too."""
    if "images" not in kinds:
        return None
    known = [kind for kind in MASK_FOLDERS if kind in kinds] or ["masks"]
    if len(known) > 1:
        raise UserError(f"{folder}: has both {' and '.join(known)}; keep one")
    [kind] = known
    images = there.by_stem(files.join(folder, "images"))
    masks = there.by_stem(files.join(folder, kind), suffix)
    if not suffix and images and not images.keys() & masks.keys():
        suffix = _common_suffix(images, masks)
        masks = {stem.removesuffix(suffix): path for stem, path in masks.items()}
    return Pairs(
        images,
        {stem: (path,) for stem, path in masks.items()},
        lambda stem: (
            files.join(folder, kind, f"{stem}{suffix}.*"),
            files.join(folder, "images", f"{stem}.*"),
        ),
    )


def _common_suffix(images: dict[str, str], masks: dict[str, str]) -> str:
    """The suffix that all masks have beyond their images' names; "" if none does."""
    for suffix in MASK_SUFFIXES:
        if masks and all(stem.endswith(suffix) for stem in masks):
            return suffix
    return ""


def _of_nnunet(there: Files, folder: str, kinds: set[str], suffix: str) -> Pairs | None:
    """imagesTr/NAME_0000.* with labelsTr/NAME.*."""
    if not {"imagesTr", "labelsTr"} <= kinds:
        return None
    place = files.join(folder, "imagesTr")
    images = there.by_stem(place, NNUNET_CHANNEL)
    for stem, path in there.by_stem(place).items():
        if not stem.endswith(NNUNET_CHANNEL):
            there.problems.append(
                f"{path}: a channel in a file of its own is not read; save all "
                "channels of an image in one TIFF"
            )
    masks = there.by_stem(files.join(folder, "labelsTr"), suffix)
    return Pairs(
        images,
        {stem: (path,) for stem, path in masks.items()},
        lambda stem: (
            files.join(folder, "labelsTr", f"{stem}.*"),
            files.join(place, f"{stem}{NNUNET_CHANNEL}.*"),
        ),
    )


def _by_object(there: Files, folder: str, kinds: set[str], suffix: str) -> Pairs | None:
    """ID/images/ID.* with ID/masks/*, a mask an object (Data Science Bowl 2018)."""
    owners = [
        kind
        for kind in sorted(kinds)
        if {"images", "masks"} <= set(files.list_folders(files.join(folder, kind)))
    ]
    if not owners:
        return None
    images, masks = {}, {}
    for owner in owners:
        found = there.images_in(files.join(folder, owner, "images"))
        if len(found) > 1:
            return None  # images/ and masks/ in a folder around them
        if found:
            images[owner] = found[0]
        if objects := there.images_in(files.join(folder, owner, "masks")):
            masks[owner] = tuple(objects)
    return Pairs(
        images,
        masks,
        lambda stem: (
            files.join(folder, stem, "masks/*"),
            files.join(folder, stem, "images/*"),
        ),
    )


def _side_by_side(
    there: Files, folder: str, kinds: set[str], suffix: str
) -> Pairs | None:
    """NAME.* and NAME_mask.* in one folder."""
    stems = there.by_stem(folder)
    for ending in [suffix] if suffix else MASK_SUFFIXES:
        masks = {
            stem.removesuffix(ending): path
            for stem, path in stems.items()
            if stem.endswith(ending)
        }
        if masks:
            break
    else:
        return None
    images = {s: path for s, path in stems.items() if not s.endswith(ending)}
    return Pairs(
        images,
        {stem: (path,) for stem, path in masks.items()},
        lambda stem: (
            files.join(folder, f"{stem}{ending}.*"),
            files.join(folder, f"{stem}.*"),
        ),
    )


ARRANGEMENTS = {
    "images/ and masks/": _in_two_folders,
    "imagesTr/ and labelsTr/": _of_nnunet,
    "ID/images/ and ID/masks/": _by_object,
    "NAME.* and NAME_mask.*": _side_by_side,
}


def find_pairs(folder: str, suffix: str) -> tuple[str, Pairs, Files]:
    """Finds images and masks in whatever arrangement there is.

    Args:
      folder: local or remote.
      suffix: what masks' names end with, where the config says so.

    Returns:
      The arrangement's name, its pairs, and what else is there.

    Raises:
      UserError: two arrangements fit.
    """
    kinds = set(files.list_folders(folder))
    fitting = []
    for name, find in ARRANGEMENTS.items():
        there = Files()
        pairs = find(there, folder, kinds, suffix)
        if pairs and (pairs.images or pairs.masks):
            fitting.append((name, pairs, there))
    if len(fitting) > 1:
        names = " as well as ".join(name for name, *_ in fitting)
        raise UserError(f"{folder}: has {names}; keep one in the folder")
    if fitting:
        return fitting[0]
    if len(kinds) == 1:  # a folder around it all
        return find_pairs(files.join(folder, *kinds), suffix)
    return "", Pairs({}, {}, lambda stem: ("", "")), Files()
