"""Draws microscopy-like data with exact truth, for demos and tests.

Cells lie in the Cell Tracking Challenge's layout (a video of touching, moving cells),
EM in ISBI 2012's (slices of membrane-bound tissue): the same adapters read them.
"""

import io
from typing import Any

import cv2
import numpy as np
import tifffile
from absl import flags

from preprocess.augment import along_columns, interpolate, spline_basis
from unet_tfrecords.command import cli, cli_flags, signals
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.drawn_cells import draw_cells, generator, texture, to_uint8
from unet_tfrecords.dataset.regions import touching_pixels
from unet_tfrecords.storage import files, json_files, locks

MARKER_RADIUS_PX = 4
NOTE_NAME = "drawn.json"  # what was asked for, so that no two drawings mix


def draw_em(size: int, num_slices: int, seed: int):
    """Slices of tissue: dark membranes around grainy interiors, mitochondria.

    Yields:
      image uint8 [size, size], label uint8 [size, size] (0 membrane, 255 interior).
    """
    rng = generator("em", seed)
    count = max(4, round(size**2 / 1600))
    place = rng.uniform(0, size, (count, 2))
    for index in range(num_slices):
        drawn = generator(f"em/{index}", seed)
        regions = _regions(place, size, drawn)
        border = touching_pixels(regions, regions > 0).astype(np.uint8)
        membrane = np.asarray(cv2.dilate(border, np.ones((3, 3), np.uint8)))
        yield _shade_em(membrane, drawn), np.where(membrane, 0, 255).astype(np.uint8)
        place = np.clip(place + rng.normal(0, 1.5, place.shape), 0, size - 1)


def _regions(place: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Nearest seed of each pixel, borders bent by an elastic field: int32."""
    seeds = np.ones((size, size), np.uint8)
    seeds[place[:, 0].astype(int), place[:, 1].astype(int)] = 0
    _, regions = cv2.distanceTransformWithLabels(
        seeds, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    basis = spline_basis(9, 0, size, size)
    for positions in (rows, columns):
        bends = along_columns(rng.normal(0, 4, (9, 9)), basis).astype(np.float32)
        bend = np.empty_like(positions)
        interpolate(basis, bends, out=bend)
        positions += bend
    return cv2.remap(
        regions.astype(np.float32),
        columns,
        rows,
        cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_REFLECT_101,
    ).astype(np.int32)


def _shade_em(membrane: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size = len(membrane)
    dark = cv2.GaussianBlur(membrane.astype(np.float32), (0, 0), 1.0)
    picture = 165 - 115 * dark + 12 * texture(rng, size, 1.5)
    for _ in range(max(1, size**2 // 12000)):
        centre = tuple(int(v) for v in rng.integers(0, size, 2))
        axes = tuple(int(v) for v in rng.integers(4, 9, 2))
        body = np.zeros((size, size), np.uint8)
        cv2.ellipse(body, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
        picture -= 40 * body * (1 - dark)
    return to_uint8(picture + rng.normal(0, 9, (size, size)))


def _tiff(pages: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pages, photometric="minisblack", compression="zlib")
    return buffer.getvalue()


def _markers(instances: np.ndarray) -> np.ndarray:
    """One dot in the middle of each cell, as in a challenge's TRA folder."""
    dots = np.zeros_like(instances)
    for identity in np.unique(instances[instances > 0]):
        mask = np.pad((instances == identity).astype(np.uint8), 1)
        depth = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        row, column = np.unravel_index(depth.argmax(), depth.shape)
        centre = (int(column) - 1, int(row) - 1)
        dot = np.zeros(instances.shape, np.uint8)
        cv2.circle(dot, centre, MARKER_RADIUS_PX, 1, -1)
        dots[(dot > 0) & (instances == identity)] = identity
    return dots


def write_cells(folder: str, *, size: int, num_frames: int, seed: int) -> None:
    """Writes FOLDER/01 with 01_GT/SEG and 01_GT/TRA."""
    video = draw_cells(size, num_frames, seed)
    for index, (image, instances) in enumerate(video):
        content = {
            f"01/t{index:03d}.tif": image,
            f"01_GT/SEG/man_seg{index:03d}.tif": instances,
            f"01_GT/TRA/man_track{index:03d}.tif": _markers(instances),
        }
        for name, picture in content.items():
            files.write_bytes(files.join(folder, *name.split("/")), _tiff(picture))


def write_em(folder: str, *, size: int, num_frames: int, seed: int) -> None:
    """Writes FOLDER/train-volume.tif and FOLDER/train-labels.tif."""
    slices = list(draw_em(size, num_frames, seed))
    for name, index in (("train-volume.tif", 0), ("train-labels.tif", 1)):
        pages = np.stack([pair[index] for pair in slices])
        files.write_bytes(files.join(folder, name), _tiff(pages))


KINDS = {"cells": write_cells, "em": write_em}


def _draw(values: flags.FlagValues, _: list[str]) -> None:
    asked = {name: values[name].value for name in ("kind", "frames", "size", "seed")}
    with locks.exclusive(values.output):
        _draw_into(values, asked)
    print(
        f"{values.frames} frames of {values.size} x {values.size} px: {values.output}"
    )


def _draw_into(values: flags.FlagValues, asked: dict[str, Any]) -> None:
    note = files.join(values.output, NOTE_NAME)
    cure = "give another --output"
    drawn = json_files.read(note, cure=cure) if files.exists(note) else None
    there = files.list_files(values.output) + files.list_folders(values.output)
    if drawn != asked and there:
        raise UserError(f"{values.output}: holds something else; {cure}")
    json_files.write(note, asked)
    write = KINDS[values.kind]
    write(values.output, size=values.size, num_frames=values.frames, seed=values.seed)


COMMAND = cli.Command(
    name="draw",
    summary=__doc__,
    flags=(
        cli_flags.choice(
            "kind",
            "layout of the Cell Tracking Challenge, or of ISBI 2012's EM stack",
            sorted(KINDS),
            "cells",
        ),
        cli_flags.string("output", "folder to write to"),
        cli_flags.integer("frames", "how many frames", 24, least=1),
        cli_flags.integer("size", "frame's edge, px", 256, least=32),
        cli_flags.integer("seed", "of the drawing", 1),
    ),
    run=_draw,
    required=("output",),
)


def run() -> None:
    """Entry point of `unet-draw` and `python -m preprocess.draw`."""
    signals.leave(cli.main(COMMAND))


if __name__ == "__main__":
    run()
