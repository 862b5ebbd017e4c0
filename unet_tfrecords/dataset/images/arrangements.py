"""How people arrange their own images and masks in folders.

Each arrangement is a function that finds pairs in a folder, or none. A new one is a
function and a line in `ARRANGEMENTS`.
"""

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.images import zarr_image
from unet_tfrecords.dataset.images.formats import (
    is_image,
    label_names,
    newest,
    unread,
)
from unet_tfrecords.storage import files

IMAGES = ("images", "image")
MASKS = ("masks", "labels", "mask", "label")
OF_NNUNET = {"imagests": "labelsts", "imagestr": "labelstr"}
# In any case: img-mask, img_Labels, img.seg. Longer ones first: _cp_masks has _masks.
MASK_SUFFIXES = tuple(
    re.compile(f"[-_. ]{name}$", re.IGNORECASE)
    for name in ("cp[-_]masks", "masks", "mask", "labels", "label", "seg")
)
NNUNET_CHANNEL = "_0000"


class Folder:
    """A folder whose files, and those of its subfolders, were listed once.

    Attributes:
      path: of the folder.
      files: names of the files directly inside.
      folders: the subfolders by name.
    """

    def __init__(self, path: str, inside: Iterable[str]):
        """Takes the paths of all files below, relative to the folder."""
        self.path = path
        self.files: list[str] = []
        below: dict[str, list[str]] = {}
        for name in inside:
            first, slash, rest = name.partition("/")
            if slash:
                below.setdefault(first, []).append(rest)
            else:
                self.files.append(name)
        self.folders = {
            name: Folder(files.join(path, name), rest) for name, rest in below.items()
        }

    def find(self, *names: str) -> "Folder | None":
        """A subfolder of one of these names, in any case, with images if several are.

        Raises:
          UserError: several have images.
        """
        found = [known for known in self.folders if known.lower() in names]
        if len(found) > 1:
            found = [n for n in found if self.folders[n].has_images()] or found[:1]
        if len(found) > 1:
            raise UserError(f"{self.path}: has both {' and '.join(found)}; keep one")
        return self.folders[found[0]] if found else None

    def has_images(self) -> bool:
        """Whether a file below is an image, of a format that is read or not."""
        return any(
            is_image(path) or unread(path, len(path) - len(name))
            for path, name in self.walk()
        )

    def walk(self, prefix: str = "") -> Iterator[tuple[str, str]]:
        """Yields the path of each file below, and its name relative to the folder."""
        for name in self.files:
            yield files.join(self.path, name), prefix + name
        for name, folder in self.folders.items():
            yield from folder.walk(f"{prefix}{name}/")


class Pairs(NamedTuple):
    """Images and masks, by the path of an image below its folder, without its ending.

    Attributes:
      images: a file each.
      masks: a file each, or several, one an object.
      wanted: where the mask of an image is looked for, and the image of a mask.
      problems: images that are not read, and files of one name, a line each.
    """

    images: dict[str, str]
    masks: dict[str, tuple[str, ...]]
    wanted: Callable[[str], tuple[str, str]]
    problems: tuple[str, ...] = ()


def _by_stem(
    found: Mapping[str, str], problems: list[str], suffix: str = ""
) -> dict[str, str]:
    """Images whose names end with a suffix, by what is before it.

    Args:
      found: files' names, by their path.
      problems: takes in a line on each that can't be used.
      suffix: of the names, before the ending.
    """
    stems: dict[str, str] = {}
    lines = (unread(path, len(path) - len(name)) for path, name in found.items())
    problems += dict.fromkeys(filter(None, lines))
    for path, name in found.items():
        stem = stem_of(name)
        if not is_image(path) or not stem.endswith(suffix):
            continue
        stem = stem[: len(stem) - len(suffix)]
        if stems.setdefault(stem, path) != path:
            problems.append(f"{path}: {stems[stem]} has the same name; keep one")
    return stems


def stem_of(name: str) -> str:
    """A name without its ending, which may be two.

    >>> stem_of("p1/a.b.png"), stem_of("a.ome.tif")
    ('p1/a.b', 'a')
    """
    stem = os.path.splitext(name)[0]
    return stem[:-4] if stem.lower().endswith(".ome") else stem


def _with_accents_of(images: dict[str, str], masks: dict[str, str]) -> dict[str, str]:
    """Masks by their images' names, where these differ in how accents are written.

    An accented letter is one character in some file systems and two in others.
    """
    lonely = {
        unicodedata.normalize("NFC", stem): stem
        for stem in images.keys() - masks.keys()
    }
    return {
        stem
        if stem in images
        else lonely.get(unicodedata.normalize("NFC", stem), stem): path
        for stem, path in masks.items()
    }


def _single(masks: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    return {stem: (path,) for stem, path in masks.items()}


def _in_two_folders(folder: Folder, suffix: str) -> Pairs | None:
    """images/NAME.* with masks/NAME.* or labels/NAME.*; NAME_mask.* is taken too."""
    where, place = folder.find(*IMAGES), folder.find(*MASKS)
    if where is None or place is None and _labels_inside(where, suffix):
        return None
    place = place or Folder(files.join(folder.path, MASKS[0]), [])
    problems: list[str] = []
    images = _by_stem(dict(where.walk()), problems)
    masks = _by_stem(dict(place.walk()), problems, suffix)
    if not suffix and images and not images.keys() & masks.keys():
        masks, suffix = _without_suffix(masks)
    masks = _with_accents_of(images, masks)
    if images and masks and not images.keys() & masks.keys():
        problems.append(
            f"{place.path}: no mask has the name of an image, as {min(masks)} and "
            f"{min(images)}; name both alike (a suffix of the masks may remain)"
        )
    return Pairs(
        images,
        _single(masks),
        lambda stem: (
            files.join(place.path, f"{stem}{suffix}.*"),
            files.join(where.path, f"{stem}.*"),
        ),
        tuple(problems),
    )


def _without_suffix(masks: dict[str, str]) -> tuple[dict[str, str], str]:
    """Masks by their images' names, where all have a suffix beyond these; and one."""
    for suffix in MASK_SUFFIXES:
        found = {stem: mark for stem in masks if (mark := suffix.search(stem))}
        short = {stem[: mark.start()]: masks[stem] for stem, mark in found.items()}
        if masks and len(short) == len(masks):
            return short, next(iter(found.values()))[0]
    return masks, ""


def _of_nnunet(folder: Folder, suffix: str) -> Pairs | None:
    """imagesTr/NAME_0000.* with labelsTr/NAME.*."""
    where, place = folder.find("imagestr"), folder.find("labelstr")
    if where is None or place is None:
        return None
    problems: list[str] = []
    images = _by_stem(dict(where.walk()), problems, NNUNET_CHANNEL)
    masks = _with_accents_of(images, _by_stem(dict(place.walk()), problems, suffix))
    for stem, path in _by_stem(dict(where.walk()), []).items():
        if re.search("_[0-9]{4}$", stem) is None:
            problems.append(f"{path}: names of images end with {NNUNET_CHANNEL}")
        elif not stem.endswith(NNUNET_CHANNEL):
            problems.append(
                f"{path}: a channel in a file of its own is not read; save all "
                "channels of an image in one TIFF"
            )
    return Pairs(
        images,
        _single(masks),
        lambda stem: (
            files.join(place.path, f"{stem}.*"),
            files.join(where.path, f"{stem}{NNUNET_CHANNEL}.*"),
        ),
        tuple(problems),
    )


def _by_object(folder: Folder, suffix: str) -> Pairs | None:
    """ID/images/ID.* with ID/masks/*, a mask an object (Data Science Bowl 2018)."""
    images, masks, problems = {}, {}, list[str]()
    for owner, inside in folder.folders.items():
        where, place = inside.find(*IMAGES), inside.find("masks", "mask")
        if where is None:
            continue
        found = list(_by_stem(dict(where.walk()), problems).values())
        if len(found) > 1:
            return None  # images/ and masks/ in folders around them
        single = dict(place.walk()) if place else {}
        objects = tuple(_by_stem(single, problems).values())
        if found:
            images[owner] = found[0]
        if objects:
            masks[owner] = objects
    named_alike = [_is_named_alike(images.get(key), own) for key, own in masks.items()]
    if 2 * sum(named_alike) >= len(masks):
        return None  # the same with one image in each; other masks lack theirs
    return Pairs(
        images,
        masks,
        lambda stem: (
            files.join(folder.path, stem, "masks/*"),
            files.join(folder.path, stem, "images/*"),
        ),
        tuple(problems),
    )


def _is_named_alike(image: str | None, masks: tuple[str, ...]) -> bool:
    """Whether one of the masks has the name of the image."""
    names = [stem_of(files.basename(path)) for path in masks]
    return image is not None and stem_of(files.basename(image)) in names


def _side_by_side(folder: Folder, suffix: str) -> Pairs | None:
    """NAME.* and NAME_mask.* in one folder."""
    problems: list[str] = []
    there = {files.join(folder.path, name): name for name in folder.files}
    stems = _by_stem(there, problems)
    for ending in [re.compile(re.escape(suffix) + "$")] if suffix else MASK_SUFFIXES:
        marks = {stem: mark for stem in stems if (mark := ending.search(stem))}
        if marks:
            break
    else:
        return None
    some = next(iter(marks.values()))[0]
    masks: dict[str, str] = {}
    for stem, mark in marks.items():
        first = masks.setdefault(stem[: mark.start()], stems[stem])
        if first != stems[stem]:
            problems.append(f"{stems[stem]}: {first} is of the same image; keep one")
    images = {stem: path for stem, path in stems.items() if stem not in marks}
    return Pairs(
        images,
        _single(_with_accents_of(images, masks)),
        lambda stem: (
            files.join(folder.path, f"{stem}{some}.*"),
            files.join(folder.path, f"{stem}.*"),
        ),
        tuple(problems),
    )


def _labels_inside(folder: Folder, suffix: str) -> Pairs | None:
    """NAME.zarr, which has its masks inside, in labels/."""
    masks, problems = dict[str, tuple[str, ...]](), list[str]()
    images = dict[str, str]()
    for name in folder.files:
        path = files.join(folder.path, name)
        try:
            names = label_names(path)
            if not names:
                continue
            images[stem_of(name)] = path
            masks[stem_of(name)] = (_of_label(path, names, suffix),)
        except UserError as error:
            problems += error.problems
    if not images and not problems:
        return None
    there = {files.join(folder.path, name): name for name in folder.files}
    own = _by_stem(there, problems)
    refused = {line.partition(": ")[0] for line in problems}
    found = {s: p for s, p in (own | images).items() if p not in refused}
    return Pairs(
        found,
        masks,
        lambda stem: (
            files.join(folder.path, f"{stem}.zarr/{zarr_image.LABELS}"),
            files.join(folder.path, f"{stem}.zarr"),
        ),
        tuple(problems),
    )


def _of_label(path: str, names: list[str], suffix: str) -> str:
    """The label image that is wanted, of those in an image.

    Raises:
      UserError: it is not there, or there are several.
    """
    wanted = suffix or names[0]
    if wanted not in names or len(names) > 1 and not suffix:
        raise UserError(
            f"{path}: has the labels {', '.join(names)}; name one of them, as "
            f"--config.data.mask_suffix={names[0]}"
        )
    return zarr_image.label_path(path, wanted)


ARRANGEMENTS = {
    "NAME.zarr with labels/ inside": _labels_inside,
    "images/ and masks/": _in_two_folders,
    "imagesTr/ and labelsTr/": _of_nnunet,
    "ID/images/ and ID/masks/": _by_object,
    "NAME.* and NAME_mask.*": _side_by_side,
}


class Arranged(NamedTuple):
    """What was found below a folder.

    Attributes:
      name: of the arrangement; "" if none fits.
      pairs: in the order in which they were found, with a part for each subfolder.
      left_out: files that are in no pair, and that no problem names.
    """

    name: str
    pairs: list[Pairs]
    left_out: tuple[str, ...]


def arranged(path: str, suffix: str, inside: Sequence[str] | None = None) -> Arranged:
    """Finds images and masks in whatever arrangement there is.

    Folders inside those in which one fits are looked into as well. Of several, names of
    images begin with their folder.

    Args:
      path: local or remote.
      suffix: what masks' names end with, where the config says so.
      inside: the files below, relative to it; by default they are listed.

    Raises:
      UserError: two arrangements fit.
    """
    inside = files.list_below(path) if inside is None else inside
    folder = Folder(path, newest(dict.fromkeys(inside, 0.0), 0))
    found = list(_fitting(folder, suffix, ""))
    names = list(dict.fromkeys(name for name, _ in found))
    if len(names) > 1:
        raise UserError(f"{path}: has {' as well as '.join(names)}; give one of them")
    pairs = [each for _, each in found]
    used = {path for each in pairs for path in each.images.values()}
    used |= {path for each in pairs for group in each.masks.values() for path in group}
    used |= {line.partition(": ")[0] for each in pairs for line in each.problems}
    left = (path for path, _ in folder.walk() if path not in used)
    return Arranged(names[0] if names else "", pairs, tuple(sorted(left)))


def _fitting(
    folder: Folder, suffix: str, prefix: str, around: str = ""
) -> Iterator[tuple[str, Pairs]]:
    """Yields the arrangement's name and the pairs of each folder in which one fits."""
    fitting = []
    for name, find in ARRANGEMENTS.items():
        pairs = find(folder, suffix)
        if pairs and (pairs.images or pairs.masks or pairs.problems):
            fitting.append((name, _prefixed(pairs, prefix)))
    if around:  # other things lie beside a data set, such as its previews
        fitting = [
            (name, pairs)
            for name, pairs in fitting
            if name == around and pairs.images.keys() & pairs.masks.keys()
        ]
    yield from fitting
    used = {path for _, pairs in fitting for path in pairs.images.values()}
    used |= {p for _, pairs in fitting for group in pairs.masks.values() for p in group}
    is_one = len(folder.folders) == 1 and not fitting  # around it all
    around = around or (fitting[0][0] if fitting else "")
    for name, inside in sorted(folder.folders.items()):
        if not any(path in used for path, _ in inside.walk()):
            own = prefix if is_one else f"{prefix}{name}/"
            yield from _fitting(inside, suffix, own, around)


def _prefixed(pairs: Pairs, prefix: str) -> Pairs:
    """The same with names that begin with a prefix."""
    if not prefix:
        return pairs
    return pairs._replace(
        images={prefix + stem: path for stem, path in pairs.images.items()},
        masks={prefix + stem: paths for stem, paths in pairs.masks.items()},
        wanted=lambda stem: pairs.wanted(stem.removeprefix(prefix)),
    )


def masks_among(names: Sequence[str]) -> set[str]:
    """Those of the names that look like masks of others; no config says which are.

    Args:
      names: paths of files, relative to a folder.

    >>> sorted(masks_among(["images/a.png", "Labels/a.png", "b.png", "b-mask.tif"]))
    ['Labels/a.png', 'b-mask.tif']
    """
    lowered = {
        name: unicodedata.normalize("NFC", name).lower()
        for name in names
        if is_image(name)
    }
    folders = {part for name in lowered.values() for part in _folders_of(name)}
    stems = {stem_of(name) for name in lowered.values()}
    partner: dict[str, tuple[str, ...]] = {mask: IMAGES for mask in MASKS}
    partner |= {mask: (image,) for image, mask in OF_NNUNET.items()}
    found, suffixes = set[str](), set[tuple[str, str]]()
    marked: dict[str, tuple[str, str]] = {}
    for name, low in lowered.items():
        for folder in _folders_of(low):
            around, _, kind = folder.rpartition("/")
            beside = {files.join(around, n) for n in partner.get(kind, ())}
            if beside & folders:
                found.add(name)
        stem = stem_of(low)
        if mark := next(filter(None, (s.search(stem) for s in MASK_SUFFIXES)), None):
            marked[name] = (low.rpartition("/")[0], mark[0])
            if stem[: mark.start()] in stems:
                suffixes.add(marked[name])
    return found | {name for name, mark in marked.items() if mark in suffixes}


def _folders_of(name: str) -> list[str]:
    """The folders around a file, the outermost first.

    >>> _folders_of("a/b/c.png")
    ['a', 'a/b']
    """
    parts = name.split("/")[:-1]
    return ["/".join(parts[: i + 1]) for i in range(len(parts))]
