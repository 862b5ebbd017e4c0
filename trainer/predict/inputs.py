"""Which images are to be segmented, and under which names their outputs go."""

import os
import re
from collections.abc import Iterable
from typing import NamedTuple

from unet_tfrecords.command.errors import UserError, warn
from unet_tfrecords.dataset.images.arrangements import OF_NNUNET
from unet_tfrecords.dataset.images.formats import (
    ALL_PLANES,
    FOLDER_ENDING,
    around_of,
    count_pages,
    has_header,
    header_of,
    is_image,
    is_label_image,
    neighbours_of,
    newest,
    pages_of,
    stack_of,
    unread,
)
from unet_tfrecords.dataset.images.frames import natural_key
from unet_tfrecords.dataset.images.layouts import truth_files
from unet_tfrecords.dataset.images.pages import FOLDER_METADATA, Page, Planes
from unet_tfrecords.storage import files

RECORD = "predict.json"  # in a folder of outputs
CHANNEL = re.compile(r"_[0-9]{4}\.\w+$")


class Job(NamedTuple):
    """One image to segment.

    Attributes:
      page: the image.
      name: what its outputs' paths begin with: its path below the input folder,
        without its ending.
      stack: the same for all pages of a stack.
      pages: how many the file has.
      updated: when the file was last changed, s since 1970.
      neighbours: images whose channels follow its own, see config.data.neighbours.
      size: height and width, px, of the file's first image; 0 where its header does
        not say.
    """

    page: Page
    name: str
    stack: str
    pages: int
    updated: float
    neighbours: tuple[Page, ...] = ()
    size: tuple[int, int] = (0, 0)


def find_jobs(
    source: str, output: str, planes: Planes | None = None, *, level: int = 0
) -> tuple[list[Job], list[str]]:
    """Images of a folder, a glob or one file, every page of every file.

    Args:
      source: the folder, glob or file, local or remote.
      output: where outputs go.
      planes: which images of OME-Zarrs, where there are to be no other files.
      level: their resolution, where that is None.

    Returns:
      The jobs, and a line for each file that can't be opened.

    Raises:
      UserError: no images there, or images in `output`.
    """
    if source.lower().rstrip("/").endswith(FOLDER_ENDING):
        source = source.rstrip("/")
    found = _files_of(source)
    _check_output(output, source, found)
    there = _outside(output, source, found)
    updated = {path: time for path, time in there.items() if is_image(path)}
    root = _root_of(source, list(there))
    unreadable = [line for p in sorted(there) if (line := unread(p, len(root)))]
    apart = _channels_apart(updated)
    updated = {path: time for path, time in updated.items() if path not in apart}
    problems = [*dict.fromkeys(unreadable), *apart.values()]
    if not updated:
        lines = [f"{source}: no images there that can be read; see --input"]
        if around := around_of(_resolved(source) + "/", 0):
            lines = [f"{source}: is inside {around}; give that folder"]
        raise UserError(problems or lines)
    others = [p for p in there if not (is_image(p) or unread(p, len(root)))]
    if others:
        warn(f"{len(others)} files are no images: {others[0]} ...")
    jobs: list[Job] = []
    labels: list[str] = []
    owners: dict[str, str] = {}
    for path, changed in sorted(updated.items(), key=lambda e: natural_key(e[0])):
        stem = os.path.splitext(path[len(root) :])[0]
        if (owner := owners.setdefault(stem, path)) != path:
            problems.append(
                f"{path}: its outputs would overwrite those of {owner}; rename one of "
                "them"
            )
            continue
        try:
            if path.lower().endswith(FOLDER_ENDING) and is_label_image(path):
                labels.append(path)
                continue
            jobs += _jobs_of(path, stem, changed, planes or _all(path, level))
        except UserError as error:
            problems += error.problems
    if labels:
        warn(f"{len(labels)} OME-Zarrs are labels, and are left out: {labels[0]} ...")
    if not jobs and not problems:
        raise UserError(f"{source}: holds labels and no images; see --input")
    return jobs, problems


def with_neighbours(
    jobs: list[Job], offsets: tuple[int, ...]
) -> tuple[list[Job], list[str]]:
    """Gives each image its neighbours: pages of its stack, or images of its folder.

    Those of the folder as it is, whichever of them are to be segmented.

    Returns:
      The jobs, and a line for each image that is alone, which gets no job.
    """
    videos = {
        folder: _images_in(folder, level)
        for folder, level in {
            (os.path.dirname(job.page.path), job.page.level)
            for job in jobs
            if job.pages == 1
        }
    }
    places = {
        folder: {files.basename(page.path): n for n, page in enumerate(pages)}
        for folder, pages in videos.items()
    }
    made, problems, stack = [], [], list[Page]()
    for job in jobs:
        path, place = job.page.path, job.page.number
        if job.pages > 1:
            if not stack or stack[0].path != path:  # its pages come in a row
                stack = pages_of(path, _all(path, job.page.level))
            pages = stack
            if path.lower().endswith(FOLDER_ENDING):  # of one time, or one z
                pages = stack_of(job.page)
                place = pages.index(job.page)
        else:
            folder = os.path.dirname(path)
            pages = videos[folder]
            place = places[folder].get(files.basename(path), -1)
        if len(pages) < 2 or place < 0:  # or it is taken for a mask there
            problems.append(
                f"{job.page}: is alone, and this model also looks at an image's "
                f"neighbours {offsets} in its stack or folder; put them beside it"
            )
            continue
        made.append(job._replace(neighbours=neighbours_of(pages, place, offsets)))
    return made, problems


def _images_in(folder: str, level: int) -> list[Page]:
    """The images of a folder, in the order of the numbers in their names."""
    paths = files.list_files(folder)
    paths += [
        files.join(folder, name)
        for name in files.list_folders(folder)
        if name.lower().endswith(FOLDER_ENDING)
    ]
    images = set(filter(is_image, paths)) - truth_files(folder, paths)
    return [Page(path, level=level) for path in sorted(images, key=natural_key)]


def _channels_apart(paths: Iterable[str]) -> dict[str, str]:
    """Channels in files of their own, as nnU-Net has them: a line each, by path.

    Elsewhere names that end with _0000 and _0001 are those of a video.
    """
    channels: dict[str, list[str]] = {}
    for path in sorted(paths):
        folder = files.basename(os.path.dirname(path)).lower()
        if folder in OF_NNUNET and (end := CHANNEL.search(path)):
            channels.setdefault(path[: end.start()], []).append(path)
    return {
        path: f"{path}: a channel in a file of its own is not read; save all channels "
        "of an image in one TIFF"
        for those in channels.values()
        if len(those) > 1
        for path in those
    }


def _files_of(source: str) -> dict[str, float]:
    """When each file there was last changed, by path; hidden files are left out."""
    if os.path.isfile(source):
        return {source: os.path.getmtime(source)}
    folder = source.rstrip("/")
    if folder.lower().endswith(FOLDER_ENDING):
        inside = files.all_below(folder)
        if any(files.basename(name) in FOLDER_METADATA for name in inside):
            return {folder: max(changed for _, changed in inside.values())}
    if os.path.isdir(source) or files.is_remote(source) and not _is_pattern(source):
        start = len(folder) + 1
        found = newest(files.updated_below(source), start)
        if found:
            return _without_truth(source, found)
    found = files.updated(source) | files.updated_inside(source, FOLDER_ENDING)
    found = {p: t for p, t in found.items() if not files.basename(p).startswith(".")}
    return _without_truth(_root_of(source, list(found)).rstrip("/"), found)


def _without_truth(folder: str, found: dict[str, float]) -> dict[str, float]:
    if truth := found.keys() & truth_files(folder, found):
        warn(
            f"{len(truth)} files are masks of images there, and are left out: "
            f"{min(truth)} ..."
        )
    return {path: found[path] for path in found.keys() - truth}


def _check_output(output: str, source: str, paths: Iterable[str]) -> None:
    """Refuses to write into a folder of images; outputs of an earlier run are none.

    Raises:
      UserError: images are there, or it is the folder that is read.
    """
    folders = {
        os.path.realpath(os.path.dirname(path) or ".")
        for path in paths
        if is_image(path)
    }
    has_record = files.exists(files.join(output, RECORD))
    is_own = has_record and _resolved(output) != _resolved(source)
    place = _resolved(output) + "/"
    for path in paths:
        if path.lower().endswith(FOLDER_ENDING) and place.startswith(
            _resolved(path) + "/"
        ):
            raise UserError(
                f"--output={output}: is inside the image {path}; give another folder"
            )
    if (
        not files.is_remote(output)
        and os.path.realpath(output) in folders
        and not is_own
    ):
        raise UserError(f"--output={output}: holds the images; give another folder")


def _is_pattern(source: str) -> bool:
    return bool(set(source) & set("*?[")) and not os.path.isdir(source)


def _outside(output: str, source: str, found: dict[str, float]) -> dict[str, float]:
    """The files but those of the outputs, where these go below the images."""
    if files.is_remote(output) != files.is_remote(source):
        return found
    place = _resolved(output)
    if _is_pattern(source) or not place.startswith(_resolved(source) + "/"):
        return found
    return {p: t for p, t in found.items() if not _resolved(p).startswith(place + "/")}


def _resolved(path: str) -> str:
    return (path if files.is_remote(path) else os.path.realpath(path)).rstrip("/")


def _root_of(source: str, paths: list[str]) -> str:
    """What all paths begin with that is no part of the images' names.

    >>> _root_of("a/*/b/*.tif", ["a/1/b/x.tif", "a/2/b/y.tif"])
    'a/'
    >>> _root_of("a", ["a/x.tif", "a/1/y.tif"]), _root_of("a/x.tif", ["a/x.tif"])
    ('a/', 'a/')
    """
    folder = source.rstrip("/") + "/"
    if all(path.startswith(folder) for path in paths):
        return folder
    fixed = re.split(r"[*?[]", source)[0] if _is_pattern(source) else source
    return fixed[: fixed.rfind("/") + 1]


def _jobs_of(path: str, stem: str, updated: float, planes: Planes) -> list[Job]:
    total, pages = count_pages(path), pages_of(path, planes)
    if not pages:
        raise UserError(f"{path}: holds no image; replace the file or take it out")
    size = _size_of(pages[0])
    return [
        Job(page, page_name(stem, page.number, total), stem, total, updated, (), size)
        for page in pages
    ]


def _size_of(page: Page) -> tuple[int, int]:
    if not has_header(page.path):
        return 0, 0
    try:
        header = header_of(page)
    except UserError:  # reported when the image is read
        return 0, 0
    return header.height, header.width


def _all(path: str, level: int) -> Planes:
    return Planes(level) if path.lower().endswith(FOLDER_ENDING) else ALL_PLANES


def page_name(stem: str, number: int, pages: int) -> str:
    """What the names of a page's outputs begin with.

    >>> page_name("a", 0, 1), page_name("a", 1, 2)
    ('a', 'a-z001')
    """
    return stem if pages == 1 else f"{stem}-z{number:03d}"
