"""Pictures of a finished data set: what the network will see, to look at first.

Contact sheets as PNG (tiles with the window of their labels, contours, border weights;
several augmentations of one frame; intensities and class shares) and index.html, one
page that holds them all and opens anywhere.
"""

import base64
import importlib.util
import io
import itertools
from collections.abc import Iterator

import cv2
import numpy as np
from absl import flags

from unet_tfrecords.command import bars, cli, cli_flags, signals
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset.dataset_info import DatasetInfo, Shard, read_info
from unet_tfrecords.dataset.pictures import (
    COLOURS,
    UNLABELLED_COLOUR,
    grey_levels,
    hex_colour,
)
from unet_tfrecords.dataset.records import UNLABELLED, Tile
from unet_tfrecords.dataset.shards import read_tiles
from unet_tfrecords.dataset.splits import SPLITS
from unet_tfrecords.storage import files, json_files, locks, templates

WINDOW_COLOUR = hex_colour(COLOURS[1])
MOST_AUGMENTATIONS = 8  # of one frame, side by side
MOST_SCANNED = 2000  # tiles, in search of augmentations of one frame
INCH_PX = 100


def preview(data: str, output: str, tiles_per_split: int) -> str:
    """Draws a data set.

    Args:
      data: folder that preprocess made.
      output: folder for the pictures.
      tiles_per_split: rows of each contact sheet.

    Returns:
      The page's path.

    Raises:
      UserError: not a finished data set, or a damaged one.
    """
    info = read_info(data)
    samples = {split: _sample(data, info, split, tiles_per_split) for split in SPLITS}
    pictures = {
        f"tiles-{split}": sheet(tiles, info)
        for split, tiles in samples.items()
        if tiles
    }
    if series := augmentations_of_one_frame(data, info):
        pictures["augmentations"] = series_sheet(series)
    pictures["distributions"] = distributions(samples, info)
    for name, picture in pictures.items():
        files.write_bytes(files.join(output, f"{name}.png"), picture)
    page = files.join(output, "index.html")
    files.write_bytes(page, html(data, info, pictures).encode())
    return page


def _sample(data: str, info: DatasetInfo, split: str, number: int) -> list[Tile]:
    """The first tiles of as many shards as can be, in equal shares."""
    shards = info.splits[split].shards[:number]
    chosen: list[Tile] = []
    for index, shard in enumerate(bars.bar(shards, desc=split, unit="shard")):
        share = number * (index + 1) // len(shards) - len(chosen)
        chosen += itertools.islice(_tiles(data, info, shard), share)
    return chosen


def _tiles(data: str, info: DatasetInfo, shard: Shard) -> Iterator[Tile]:
    """A shard's tiles, with the frames' own channels, without their neighbours'."""
    path = files.join(data, shard.name)
    images = 1 + len(info.config["data"].get("neighbours", ()))
    own = info.geometry.channels // images
    try:
        for tile in read_tiles(path, info.geometry):
            yield tile._replace(image=tile.image[..., :own])
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: {error}; see ./launch.sh verify") from error


def augmentations_of_one_frame(data: str, info: DatasetInfo) -> list[Tile]:
    """One tile's place in several augmentations of the first training frame."""
    shards = info.splits["train"].shards
    every = itertools.chain.from_iterable(_tiles(data, info, s) for s in shards)
    found: dict[str, Tile] = {}
    for tile in itertools.islice(every, MOST_SCANNED):
        frame, augmentation, place = tile.key.rsplit("/", 2)
        if not found:
            wanted = frame, place
        if (frame, place) == wanted:
            found[augmentation] = tile
        if len(found) == MOST_AUGMENTATIONS:
            break
    return [found[name] for name in sorted(found)]


def outlined(tile: Tile) -> np.ndarray:
    """Draws the labelled window: contours of each class, unlabelled parts tinted.

    Returns:
      uint8 RGB [O, O, 3].
    """
    inset = (tile.image.shape[0] - tile.label.shape[0]) // 2
    window = grey_levels(tile.image)[inset : tile.image.shape[0] - inset]
    picture = np.ascontiguousarray(window[:, inset : tile.image.shape[1] - inset])
    unknown = tile.label == UNLABELLED
    picture[unknown] = 0.6 * picture[unknown] + 0.4 * UNLABELLED_COLOUR
    for number in np.unique(tile.label[~unknown]):
        if number:
            mask = (tile.label == number).astype(np.uint8)
            outlines, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            colour = COLOURS[(int(number) - 1) % len(COLOURS)].tolist()
            cv2.drawContours(picture, outlines, -1, colour, 2)
    return picture


def _figure(width_px: int, height_px: int):
    from matplotlib.figure import Figure  # half a second to import

    return Figure((width_px / INCH_PX, height_px / INCH_PX), layout="constrained")


def _png(figure) -> bytes:
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=INCH_PX)
        return file.getvalue()


def _show(axes, picture: np.ndarray, title: str, **named):
    axes.set_axis_off()
    axes.set_title(title, fontsize=9, parse_math=False)
    return axes.imshow(picture, interpolation="nearest", **named)


def sheet(tiles: list[Tile], info: DatasetInfo) -> bytes:
    """One row a tile: image with window, contours in the window, border weights."""
    from matplotlib.patches import Rectangle

    geometry, highest = info.geometry, info.settings.border_weight
    inset = (geometry.tile_size - geometry.output_size) / 2
    figure = _figure(1120, 360 * len(tiles))
    rows = figure.subplots(len(tiles), 3, squeeze=False)
    for (left, middle, right), tile in zip(rows, tiles, strict=True):
        _show(left, grey_levels(tile.image), tile.key)
        edge = geometry.output_size
        window = Rectangle((inset - 0.5, inset - 0.5), edge, edge, fill=False)
        window.set(edgecolor=WINDOW_COLOUR, linewidth=1.5)
        left.add_patch(window)
        sizes = f"loss window {edge} px of {geometry.tile_size} px"
        _show(middle, outlined(tile), sizes)
        heat = _show(right, tile.weight, "border weight", cmap="inferno")
        heat.set_clim(0, highest)
        figure.colorbar(heat, ax=right, shrink=0.8)
    return _png(figure)


def series_sheet(tiles: list[Tile]) -> bytes:
    """Augmentations of one frame side by side: image above, contours below."""
    across = min(4, len(tiles))
    down = -(-len(tiles) // across)
    figure = _figure(280 * across, 600 * down)
    axes = figure.subplots(2 * down, across, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for index, tile in enumerate(tiles):
        row, column = divmod(index, across)
        augmentation = tile.key.rsplit("/", 2)[1]
        title = "unchanged" if augmentation == "a00" else augmentation
        _show(axes[2 * row, column], grey_levels(tile.image), title)
        _show(axes[2 * row + 1, column], outlined(tile), "")
    frame = tiles[0].key.rsplit("/", 2)[0]
    figure.suptitle(frame, fontsize=10, parse_math=False)
    return _png(figure)


def distributions(samples: dict[str, list[Tile]], info: DatasetInfo) -> bytes:
    """Normalised intensities of the sampled tiles; class shares of all tiles."""
    figure = _figure(1120, 340)
    left, right = figure.subplots(1, 2)
    for split, tiles in samples.items():
        if tiles:
            values = np.concatenate(
                [((t.image - t.mean) / t.std).ravel()[::7] for t in tiles]
            )
            left.hist(
                values,
                bins=np.linspace(-4, 4, 81),
                density=True,
                histtype="step",
                label=f"{split} ({len(tiles)} tiles)",
            )
    left.set_xlabel("intensity, deviations from the mean")
    left.set_ylabel("density")
    left.legend(fontsize=8)
    width = 0.8 / len(SPLITS)
    for index, split in enumerate(SPLITS):
        share = shares(info, split)
        right.bar(np.arange(len(share)) + index * width, share, width, label=split)
    right.set_xticks(np.arange(info.geometry.classes) + width)
    right.set_xticklabels([f"class {k}" for k in range(info.geometry.classes)])
    right.set_ylabel("share of labelled pixels")
    right.legend(fontsize=8)
    return _png(figure)


def shares(info: DatasetInfo, split: str) -> list[float]:
    """Each class's share of a split's labelled pixels."""
    pixels = info.splits[split].class_pixels
    return [number / max(1, sum(pixels)) for number in pixels]


def html(data: str, info: DatasetInfo, pictures: dict[str, bytes]) -> str:
    """The page; every text from outside is escaped."""
    return templates.find("unet_tfrecords.dataset", "preview.html").render(
        data=data,
        info=info,
        splits=SPLITS,
        shares=shares,
        config=json_files.flat(info.config, "config."),
        pictures={
            name: base64.b64encode(picture).decode()
            for name, picture in pictures.items()
        },
        unlabelled_colour=hex_colour(UNLABELLED_COLOUR),
    )


def _preview(values: flags.FlagValues, _: list[str]) -> None:
    for needed in ("jinja2", "matplotlib"):
        if not importlib.util.find_spec(needed):
            raise UserError(
                f"needs {needed}; pip install 'unet-tfrecords[view]' brings it"
            )
    with locks.reading(values.data):
        print(preview(values.data, values.output, values.tiles))


COMMAND = cli.Command(
    name="preview",
    summary=__doc__,
    flags=(
        cli_flags.string("data", "folder that preprocess made"),
        cli_flags.string("output", "folder for the pictures"),
        cli_flags.integer(
            "tiles", "tiles of each split on its sheet", 6, least=1, most=40
        ),
    ),
    run=_preview,
    required=("data", "output"),
)


def run() -> None:
    """Entry point of `unet-preview` and `python -m unet_tfrecords.dataset.preview`."""
    signals.leave(cli.main(COMMAND))


if __name__ == "__main__":
    run()
