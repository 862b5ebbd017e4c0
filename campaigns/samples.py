"""Small whole files of every kind that is read, to be damaged."""

import io
import pathlib
import shutil

import msgspec
import numpy as np
import tifffile
from PIL import Image

from preprocess import draw, plan
from preprocess.plan import PlannedFrame
from unet_tfrecords.dataset import dataset_info, shards
from unet_tfrecords.dataset.images.frames import Frame
from unet_tfrecords.dataset.images.pages import Page
from unet_tfrecords.dataset.images.png import encode_png

ROOT = pathlib.Path(__file__).parents[1]
SETTINGS = (
    f"--config={ROOT}/configs/synthetic.py:smoke",
    "--config.data.tile_size=60",
    "--config.model.depth=2",
    "--config.data.augmentations=1",
)


def picture(dtype=np.uint8, channels: int = 1, size=(48, 64)) -> np.ndarray:
    """Something smooth with noise on it, [H, W] or [H, W, channels]."""
    rng = np.random.default_rng(5)
    rows, columns = np.mgrid[: size[0], : size[1]]
    smooth = 0.4 + 0.2 * np.sin(rows / 7) + 0.2 * np.cos(columns / 11)
    drawn = smooth[..., None] + rng.uniform(0, 0.2, (*size, channels))
    if np.dtype(dtype).kind == "u":
        drawn = drawn * np.iinfo(dtype).max
    return drawn.astype(dtype)[..., 0 if channels == 1 else slice(None)]


def labels(dtype=np.uint8) -> np.ndarray:
    """Some instances on 0, [48, 64]."""
    drawn = np.zeros((48, 64), dtype)
    for number in range(1, 7):
        row, column = divmod(number - 1, 3)
        drawn[row * 22 + 3 : row * 22 + 18, column * 20 + 4 : column * 20 + 17] = number
    return drawn


def write_tiffs(folder: pathlib.Path) -> None:
    """Stripped and tiled, one page and several, of all compressions in use."""
    written = {
        "plain": (picture(), {}),
        "plain-strips": (picture(np.uint16), {"rowsperstrip": 8}),
        "plain-big-endian": (picture(np.uint16), {"byteorder": ">"}),
        "plain-float": (picture(np.float32), {}),
        "plain-stack": (np.stack([picture()] * 5), {"photometric": "minisblack"}),
        "plain-bigtiff": (picture(), {"bigtiff": True}),
        "plain-imagej": (np.stack([picture(np.uint16)] * 3), {"imagej": True}),
        "plain-tiles": (picture(), {"tile": (16, 16)}),
        "rgb-plain": (picture(channels=3), {"photometric": "rgb"}),
        "rgb-planes": (
            np.moveaxis(picture(channels=3), 2, 0),
            {"photometric": "rgb", "planarconfig": "separate"},
        ),
        "lzw": (picture(), {"compression": "lzw", "rowsperstrip": 8}),
        "lzw-predictor": (picture(np.uint16), {"compression": "lzw", "predictor": 2}),
        "deflate": (picture(), {"compression": "zlib"}),
        "deflate-tiles": (
            picture(np.uint16),
            {"compression": "zlib", "predictor": 2, "tile": (16, 16)},
        ),
        "deflate-bigtiff": (
            np.stack([picture()] * 2),
            {"compression": "zlib", "bigtiff": True, "photometric": "minisblack"},
        ),
        "packbits": (picture(), {"compression": "packbits"}),
        "zstd": (picture(), {"compression": "zstd"}),
        "jpeg": (picture(), {"compression": "jpeg"}),
        "rgb-jpeg": (picture(channels=3), {"compression": "jpeg", "tile": (16, 16)}),
        "label-lzw": (labels(np.uint16), {"compression": "lzw"}),
        "label-deflate": (labels(np.uint16), {"compression": "zlib"}),
        "label-plain": (labels(), {}),
    }
    table = np.tile(np.arange(256, dtype=np.uint16) * 257, (3, 1))
    turned = [(274, "H", 1, 6, True)]
    channels = np.moveaxis(picture(np.uint16, channels=3), 2, 0)
    written |= {
        "white-zero": (picture(), {"photometric": "miniswhite"}),
        "turned": (picture(), {"extratags": turned, "compression": "lzw"}),
        "palette": (picture(), {"photometric": "palette", "colormap": table}),
        "label-palette": (labels(), {"photometric": "palette", "colormap": table}),
        "rgb-imagej": (channels, {"imagej": True, "metadata": {"axes": "CYX"}}),
        "rgb-ome": (
            channels,
            {"ome": True, "photometric": "minisblack", "metadata": {"axes": "CYX"}},
        ),
    }
    for name, (image, options) in written.items():
        tifffile.imwrite(folder / f"{name}.tif", image, **options)
    with tifffile.TiffWriter(folder / "pyramid.tif") as file:
        file.write(picture(), metadata=None)
        file.write(picture()[::2, ::2], metadata=None, subfiletype=1)


def write_pngs(folder: pathlib.Path) -> None:
    """Grey of all depths, colours, palettes; and the other formats of one image."""
    grey, rgb = picture(), picture(channels=3)
    written = {
        "grey": encode_png(grey),
        "grey16": encode_png(picture(np.uint16)),
        "rgb": encode_png(rgb),
        "label-grey": encode_png(labels(), flat=True),
        "label-grey16": encode_png(labels(np.uint16), flat=True),
    }
    drawn = {
        "rgb-alpha": Image.fromarray(rgb).convert("RGBA"),
        "one-bit": Image.fromarray(grey).convert("1"),
        "label-palette": Image.fromarray(labels()).convert("P"),
        "label-one-bit": Image.fromarray(labels() > 0),
    }
    for name, image in drawn.items():
        buffer = io.BytesIO()
        image.save(buffer, "png")
        written[name] = buffer.getvalue()
    for name, content in written.items():
        (folder / f"{name}.png").write_bytes(content)
    Image.fromarray(grey).save(folder / "grey.jpg", quality=90)
    Image.fromarray(rgb).save(folder / "rgb.jpg", quality=90, progressive=True)
    turned = Image.Exif()
    turned[274] = 8
    for name, image, options in (
        ("turned.png", grey, {"exif": turned}),
        ("turned.jpg", grey, {"exif": turned}),
        ("grey.bmp", grey, {}),
        ("rgb.bmp", rgb, {}),
        ("grey.gif", grey, {}),
        ("label.gif", labels(), {}),
        ("rgb.webp", rgb, {"lossless": True, "exif": turned}),
        ("rgb-lossy.webp", rgb, {"quality": 90}),
        ("label-colours.png", np.dstack([labels() * 40, labels(), labels() * 7]), {}),
    ):
        Image.fromarray(image).save(folder / name, **options)


def make_data(folder: pathlib.Path) -> None:
    """A data set of 96 tiles, by the preprocess command."""
    from preprocess.main import COMMAND
    from unet_tfrecords.command.cli import main

    cells = folder.with_name(folder.name + "-cells")
    draw.write_cells(str(cells), size=64, num_frames=6, seed=3)
    assert main(COMMAND, [*SETTINGS, f"--input={cells}", f"--output={folder}"]) == 0


def make_run(data: pathlib.Path, folder: pathlib.Path) -> None:
    """A work directory of four steps on it, with two checkpoints."""
    from trainer.main import COMMANDS
    from unet_tfrecords.command.cli import main

    more = [
        f"--config.train.{name}"
        for name in ("steps=4", "validate_every_steps=2", "checkpoint_every_steps=2")
    ]
    given = [f"--data={data}", f"--workdir={folder}", *more]
    assert main(COMMANDS["train"], [*SETTINGS, *given]) == 0


def make_models(run: pathlib.Path, folder: pathlib.Path) -> None:
    """Two versions of a model: weights as variables, and as constants with ONNX."""
    from trainer.main import COMMANDS
    from unet_tfrecords.command.cli import main

    given = [f"--workdir={run}", f"--output={folder}", "--tile=108"]
    for more in (["--weights=variables"], ["--onnx"]):
        assert main(COMMANDS["export"], [*given, *more]) == 0


def write_parted(data: pathlib.Path, folder: pathlib.Path) -> None:
    """The same data set as a large one says it, and what a job notes on its way."""
    shutil.copytree(data, folder)
    info = dataset_info.read_info(str(folder))
    parts = [
        dataset_info.write_sources(str(folder), i, 2, info.sources[i::2])
        for i in (0, 1)
    ]
    info = msgspec.structs.replace(info, sources=(), source_parts=tuple(parts))
    info.write(str(folder))
    for shard in info.shards:
        shards.write_sidecar(str(folder), shard)
    page = Page("/data/01/t000.tif")
    frames = [
        Frame("cells", "01", f"t{i:03d}", "ctc", page, page, split="train")
        for i in range(5)
    ]
    planned = (PlannedFrame(frame, 4, i * 4, 2, 8) for i, frame in enumerate(frames))
    plan.write_plan(str(folder), planned, 5, 1)
