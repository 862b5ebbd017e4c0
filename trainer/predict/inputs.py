"""Which images are to be segmented, and under which names their outputs go."""

import os
from typing import NamedTuple

from unet_tfrecords.command.errors import UserError, warn
from unet_tfrecords.dataset.images.formats import count_pages, is_image, unread
from unet_tfrecords.dataset.images.frames import natural_key
from unet_tfrecords.dataset.images.pages import Page
from unet_tfrecords.storage import files


class Job(NamedTuple):
    """One image to segment.

    Attributes:
      page: the image.
      name: what its outputs' names begin with.
      stack: the file's stem, the same for all pages of a stack.
      pages: how many the file has.
      updated: when the file was last changed, s since 1970.
    """

    page: Page
    name: str
    stack: str
    pages: int
    updated: float


def find_jobs(source: str, output: str) -> tuple[list[Job], list[str]]:
    """Images of a folder, a glob or one file, every page of every file.

    Args:
      source: the folder, glob or file, local or remote.
      output: where outputs go.

    Returns:
      The jobs, and a line for each file that can't be opened.

    Raises:
      UserError: no images there, or images in `output`.
    """
    there = _files_of(source)
    updated = {path: time for path, time in there.items() if is_image(path)}
    problems = [line for path in there if (line := unread(path))]
    if not updated:
        lines = [f"{source}: no images there that can be read; see --input"]
        raise UserError(problems or lines)
    others = [path for path in there if not (is_image(path) or unread(path))]
    if others:
        warn(f"{len(others)} files are no images: {others[0]} ...")
    folders = {os.path.realpath(os.path.dirname(path) or ".") for path in updated}
    if not files.is_remote(output) and os.path.realpath(output) in folders:
        raise UserError(f"--output={output}: holds the images; give another folder")
    jobs: list[Job] = []
    for path, changed in sorted(updated.items(), key=lambda e: natural_key(e[0])):
        stem = os.path.splitext(files.basename(path))[0]
        try:
            jobs += _jobs_of(path, stem, changed)
        except UserError as error:
            problems += error.problems
    return jobs, problems


def _files_of(source: str) -> dict[str, float]:
    """When each file there was last changed, by path; hidden files are left out."""
    if os.path.isfile(source):
        return {source: os.path.getmtime(source)}
    if os.path.isdir(source):
        found = files.updated_in(source)
    elif files.is_remote(source) and not set(source) & set("*?["):
        found = files.updated_in(source) or files.updated(source)
    else:
        found = files.updated(source)
    return {p: t for p, t in found.items() if not files.basename(p).startswith(".")}


def _jobs_of(path: str, stem: str, updated: float) -> list[Job]:
    pages = count_pages(path)
    if not pages:
        raise UserError(f"{path}: holds no image; replace the file or take it out")
    return [
        Job(Page(path, z), name, stem, pages, updated)
        for z, name in enumerate(page_names(stem, pages))
    ]


def page_names(stem: str, pages: int) -> list[str]:
    """What the outputs' names of each page begin with.

    >>> page_names("a", 1), page_names("a", 2)
    (['a'], ['a-z000', 'a-z001'])
    """
    return [stem] if pages == 1 else [f"{stem}-z{z:03d}" for z in range(pages)]
