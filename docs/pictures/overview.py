"""Draws docs/pictures/overview.png from what `./launch.sh demo` has left in runs/demo.

    ./launch.sh demo && .venv-cpu/bin/python docs/pictures/overview.py

A test frame, mirrored and cut into overlap tiles; a tile of the shards with its label;
the border weights of the same tile; what the trained network makes of the frame. All of
it is drawn data.
"""

import argparse
import io
import pathlib
import sys

ROOT = pathlib.Path(__file__).parents[2]
sys.path[0] = str(ROOT)  # not this folder: its names are no modules

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from unet_tfrecords.dataset import dataset_info, shards, tiling
from unet_tfrecords.dataset.images import formats, pages
from unet_tfrecords.dataset.pictures import grey_levels

INPUT, OUTPUT = "#ff8c00", "#00a0ff"  # of a tile: what it sees, what it answers for


def mirrored(image: np.ndarray, pad: int) -> np.ndarray:
    """The image continued on each side as tiles see it."""
    rows, columns = (tiling.mirror_indices(-pad, n + pad, n) for n in image.shape[:2])
    return image[rows[:, None], columns]


def square(axes, origin: tuple[float, float], edge: float, colour: str, style: str):
    row, column = origin
    axes.add_patch(
        Rectangle(
            (column - 0.5, row - 0.5), edge, edge, fill=False, ec=colour, ls=style, lw=2
        )
    )


def draw_tiles(axes, frame: np.ndarray, depth: int, tile: int) -> None:
    """The mirrored frame, two tiles' outputs and the input of the first."""
    pad, output = tiling.pad(depth), tiling.output_size(tile, depth)
    axes.imshow(mirrored(frame, pad), cmap="gray")
    height, width = frame.shape[:2]
    axes.add_patch(
        Rectangle((pad - 0.5, pad - 0.5), width, height, fill=False, ec="w", lw=0.8)
    )
    rows, columns = (tiling.tile_origins(n, output) for n in (height, width))
    for column in columns[:2]:
        square(axes, (rows[0] + pad, column + pad), output, OUTPUT, "-")
    square(axes, (rows[0], columns[0]), tile, INPUT, "--")
    axes.set_title(f"frame, mirrored; tiles see {tile} px\nand answer for {output} px")


def draw_label(axes, tile, step: str) -> None:
    axes.imshow(grey_levels(tile.image))
    inset = (tile.image.shape[0] - tile.label.shape[0]) / 2
    square(axes, (inset, inset), tile.label.shape[0], OUTPUT, "-")
    square(axes, (0, 0), tile.image.shape[0], INPUT, "--")
    cells = np.pad(tile.label, int(inset))
    axes.contour(cells, [0.5], colors="#ffd000", linewidths=1)
    axes.set_title(f"augmented tile in a shard,\n{step}")


def picture(run: pathlib.Path) -> bytes:
    """PNG of the four panels.

    Args:
      run: the demo's folder.
    """
    info = dataset_info.read_info(str(run / "data"))
    geometry = info.geometry
    overlay = sorted((run / "predictions").glob("*_overlay.png"))[-1]
    name = overlay.name.removesuffix("_overlay.png")
    frame = formats.read_image(pages.Page(str(run / f"raw/01/{name}.tif")), 1)[..., 0]
    tile = max(augmented(run, info), key=lambda each: each.weight.mean())
    figure = Figure((12, 3.7), layout="constrained")
    first, second, third, last = figure.subplots(1, 4)
    draw_tiles(first, frame, geometry.depth, geometry.tile_size)
    draw_label(second, tile, "with its label")
    third.imshow(tile.weight, cmap="inferno")
    third.set_title("its border weights:\ngaps between cells count more")
    last.imshow(formats.read_image(pages.Page(str(overlay)), 3))
    last.set_title("what the trained network\nmakes of a whole frame")
    for axes in figure.axes:
        axes.set_axis_off()
    with io.BytesIO() as drawn, io.BytesIO() as small:
        figure.savefig(drawn, dpi=90, pad_inches=0.1)
        Image.open(drawn).convert("RGB").quantize(96, dither=Image.Dither.NONE).save(
            small, "png", optimize=True
        )
        return small.getvalue()


def augmented(run: pathlib.Path, info: dict):
    """The augmented tiles of the last training shard."""
    last = info.splits["train"].shards[-1]
    for tile in shards.read_tiles(str(run / "data" / last.name), info.geometry):
        if "/a00/" not in tile.key:
            yield tile


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=pathlib.Path, default=ROOT / "runs/demo")
    output = pathlib.Path(__file__).with_suffix(".png")
    parser.add_argument("--output", type=pathlib.Path, default=output)
    given = parser.parse_args()
    given.output.write_bytes(picture(given.run))
    print(given.output)


if __name__ == "__main__":
    main()
