"""Segments images with a SavedModel: NAME_mask.png holds class numbers (0 is
background, so it looks black), NAME_overlay.png is for looking at. Run again, it
continues with what is not done.
"""

from absl import flags

from trainer.commands.shared_flags import TTA
from trainer.devices import tensorflow_files
from trainer.devices.startup import load_tensorflow
from unet_tfrecords.command import cli, cli_flags, signals
from unet_tfrecords.command.errors import UserError

# How predict makes instances of probabilities.
ELSE = "; by default as the model has it, from evaluate --tune"
RULES = (
    cli_flags.number(
        "threshold", f"probability above which a pixel is foreground, 0 to 1{ELSE}"
    ),
    cli_flags.number(
        "core_threshold",
        "watershed seeds are pixels above this probability; higher than --threshold it "
        f"separates cells joined by low-confidence pixels{ELSE}",
    ),
    cli_flags.number(
        "split_px",
        "separates cells at a bridge that is narrower than both sides by N px "
        f"(half-widths); 0 separates nothing{ELSE}",
    ),
    cli_flags.integer(
        "min_size_px", f"instances of fewer pixels are dropped{ELSE}", None
    ),
    cli_flags.boolean(
        "fill_holes", f"fills what a single instance encloses{ELSE}", None
    ),
    cli_flags.integer(
        "border_px",
        f"fills gaps of up to N px between instances{ELSE}",
        None,
    ),
    cli_flags.number(
        "seed_threshold",
        "of models of targets border or distance: a cell begins where its inside is "
        f"more certain, or deeper, than this, 0 to 1{ELSE}",
        None,
    ),
    cli_flags.number(
        "smoothing_px",
        f"the same: smooths what cells begin in by N px (deviation){ELSE}",
        None,
    ),
)


def _predict(values: flags.FlagValues, _: list[str]) -> None:
    """Segments images."""
    from trainer.inference.instances import InstanceRules, check_rules
    from trainer.predict import job
    from trainer.predict.outputs import OME_TIFF, OME_ZARR, Choice

    times, slices = (_numbers(n, getattr(values, n)) for n in ("times", "slices"))
    changes = {
        name: given
        for name in InstanceRules._fields
        if (given := getattr(values, name)) is not None
    }
    if problems := check_rules(InstanceRules()._replace(**changes)):
        raise UserError([f"--{problem}" for problem in problems])
    if values.runtime == "onnx" and values.devices:
        raise UserError("--devices is TensorFlow's; not with --runtime=onnx")
    if values.block_px % 64:
        raise UserError(f"--block_px={values.block_px}: must be a multiple of 64")
    if values.into_image and values.format == "ome-tiff":
        raise UserError("--into_image is of OME-Zarr: not with --format=ome-tiff")
    if values.edge_px is not None and values.format != "ctc":
        raise UserError("--edge_px is of --format=ctc: others have all instances")
    if values.runtime == "tensorflow":
        load_tensorflow(values.devices)
    is_shown = values.format in ("png", OME_ZARR, OME_TIFF)
    choice = Choice(
        values.format,
        values.probabilities,
        is_shown if values.overlays is None else values.overlays,
        values.instances,
        values.table,
        values.rois,
        values.geojson,
        into_image=values.into_image,
    )
    made, before = job.predict(
        values.model,
        values.input,
        values.output,
        choice,
        runtime=values.runtime,
        tta=values.tta,
        devices=values.devices,
        overwrite=values.overwrite,
        rules=changes,
        edge_px=values.edge_px,
        level=values.level,
        times=times,
        slices=slices,
        block_px=values.block_px,
        is_shared=values.shared,
    )
    done = f", {before} were there" if before else ""
    print(f"{made} images segmented{done}: {values.output}")


def _numbers(name: str, given: list[str]) -> tuple[int, ...]:
    """Numbers from 0 that a flag was given.

    Raises:
      UserError: what was given is none.
    """
    if not all(text.strip().isdecimal() for text in given):
        raise UserError(f"--{name}={','.join(given)}: whole numbers from 0")
    return tuple(map(int, given))


COMMAND = cli.Command(
    name="predict",
    summary=__doc__,
    flags=(
        cli_flags.string("model", "folder that export made, or one version in it"),
        cli_flags.string(
            "input",
            "folder with its subfolders, glob or one file, on a disk or in a store: "
            "TIFF (stacks by page), OME-Zarr, PNG, JPEG, BMP, GIF, WebP; masks of "
            "images there are left out",
        ),
        cli_flags.integer(
            "level",
            "of OME-Zarr: which resolution, 0 is the largest; by default the one that "
            "the model was trained on",
            None,
            least=0,
        ),
        cli_flags.strings("times", "of OME-Zarr: some, from 0, with commas between"),
        cli_flags.strings("slices", "of OME-Zarr: the same of z"),
        cli_flags.string("output", "folder for what is written"),
        cli_flags.choice(
            "format",
            "png: NAME_mask.png of class numbers; ctc: maskNNN.tif of "
            "tNNN.tif, uint16 instances, as the Cell Tracking Challenge takes "
            "results; isbi: NAME.tif, float32 probability of class 1, a page a "
            "page; ome-zarr: NAME_mask.zarr, and ome-tiff: NAME_mask.tif, by blocks, "
            "at several resolutions, of images of any size. With png, images of more "
            "than 67 Mpx are written as one of these two: as the image is",
            ("png", "ctc", "isbi", "ome-zarr", "ome-tiff"),
            "png",
        ),
        cli_flags.boolean(
            "into_image",
            "of OME-Zarr by blocks: masks and instances go into the image itself, as "
            "labels/unet_mask and labels/unet_instances",
        ),
        cli_flags.integer(
            "block_px",
            "side of the blocks of images that are segmented by blocks, a multiple of "
            "64; larger ones take more memory",
            2048,
            least=64,
        ),
        cli_flags.boolean(
            "shared",
            "other processes, of this machine or of others, may be started with the "
            "same flags: they share the blocks",
        ),
        cli_flags.choice(
            "probabilities",
            "none; tiff: NAME_probabilities.tif, uint16, 65535 is 1, a page a "
            "class; npy: NAME_probabilities.npy, float32 [H, W, classes]",
            ("none", "tiff", "npy"),
            "none",
        ),
        cli_flags.boolean(
            "overlays",
            "NAME_overlay.png to look at; by default with --format=png",
            None,
        ),
        cli_flags.boolean(
            "instances",
            "NAME_instances.tif too: cells numbered from 1, OME-TIFF with the image's "
            "pixel size",
        ),
        cli_flags.boolean(
            "rois", "NAME_rois.zip too: outlines for ImageJ's ROI Manager"
        ),
        cli_flags.boolean("geojson", "NAME_objects.geojson too: outlines for QuPath"),
        cli_flags.boolean(
            "table",
            "objects.csv, and NAME_objects.csv of each image: a row a cell with area, "
            "centroid, box, intensities and probability, in px and where the file says "
            "so in um",
        ),
        *RULES,
        cli_flags.integer(
            "edge_px",
            "of --format=ctc: leaves out cells that lie entirely within N px of the "
            "frame's edge; by default as the challenge scores the model's data set",
            None,
            least=0,
        ),
        TTA,
        cli_flags.choice(
            "runtime",
            "tensorflow, or onnx: on a processor, of a model exported with --onnx",
            ("tensorflow", "onnx"),
            "tensorflow",
        ),
        cli_flags.integer(
            "devices",
            "splits the first GPU, or the processor, into N logical "
            "devices, to test how several share the images; 0 uses all "
            "GPUs",
            least=0,
        ),
        cli_flags.boolean("overwrite", "segments what is done already again"),
    ),
    run=tensorflow_files.explained(_predict),
    required=("model", "input", "output"),
)


def run() -> None:
    """Entry point of `unet-predict`."""
    signals.leave(cli.main(COMMAND))
