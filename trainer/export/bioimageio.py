"""A model as bioimage.io takes it: https://bioimage.io, format 0.5.

What its tools (ilastik, deepImageJ, bioimageio.core) run is an ONNX file of one block:
mirror-padded, segmented, of the input's size. Normalising is left to them, since they
cut large images into blocks after it.
"""

import os
import pathlib
import re
import tempfile
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.devices.graphs import graph_function
from trainer.export import artefact_layout, onnx
from trainer.inference.ensemble import Scaling
from trainer.inference.segmenter import Segmenter, normalise_images
from unet_tfrecords.command.extras import load_extra
from unet_tfrecords.dataset import tiling
from unet_tfrecords.dataset.drawn_cells import draw_cells
from unet_tfrecords.dataset.images import png
from unet_tfrecords.dataset.pictures import overlay
from unet_tfrecords.storage import files

EXAMPLE_PX = 256  # edge of the drawn image, at most, if blocks can be so small
EPSILON = 1e-6  # bioimage.io adds it to a deviation; ours adds nothing
CITATION = (
    "Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image "
    "Segmentation. MICCAI 2015"
)
ARXIV = "https://arxiv.org/abs/1505.04597"


def halo(depth: int) -> int:
    """Pixels at a block's edges that know less than they should.

    The least that is enough, and that leaves blocks a multiple of 2**depth apart: or
    pooling would differ from that of the whole image.

    >>> halo(4)
    98
    """
    least = tiling.pad(depth)
    return least + (2 - least) % 2 ** (depth - 1)


def block_sizes(depth: int) -> tuple[int, int]:
    """The least edge of a block, and what it can grow by, px.

    >>> block_sizes(4)
    (212, 16)
    """
    return 2 * halo(depth) + 2**depth, 2**depth


def block_function(segmenter: Segmenter, channels: int):
    """Normalised blocks [B, H, W, C] to probabilities [B, H, W, K]."""
    spec = tf.TensorSpec([None, None, None, channels], tf.float32, name="block")
    pad = tiling.pad(segmenter.depth)

    @graph_function(input_signature=[spec])
    def of_block(block):
        around = [[0, 0], [pad, pad], [pad, pad], [0, 0]]
        logits = segmenter.network(tf.pad(block, around, "REFLECT"))
        return {"probabilities": segmenter.activated(logits)[..., : segmenter.classes]}

    return of_block


def library():
    """bioimageio.spec."""
    return load_extra("bioimageio.spec", flag="--bioimageio", extra="bioimageio")


def package(
    networks: Sequence[keras.Model],
    segmenter: Segmenter,
    about: dict[str, Any],
    extra: str,
    scalings: Sequence[Scaling | None] = (),
) -> None:
    """Writes a package.

    Args:
      networks: float32 [B, H, W, C] to logits, to be averaged.
      segmenter: over them.
      about: what model.json holds.
      extra: the local folder for it, with the model card in it.
      scalings: of each network's images; see `ensemble`.
    """
    bioimageio_spec = library()
    with tempfile.TemporaryDirectory(prefix="unet-bioimageio-") as folder:
        function = block_function(segmenter, about["channels"])
        weights = os.path.join(folder, "weights.onnx")
        onnx.write_block(weights, networks, segmenter, about, scalings)
        _write_example(segmenter, function, about, folder)
        card = files.read_bytes(os.path.join(extra, artefact_layout.CARD)).decode()
        readme = f"{card}\n## Validation\n\nThe scores above are of whole frames that "
        readme += "the model was not trained on; see `evaluate` of unet-tfrecords.\n"
        files.write_bytes(os.path.join(folder, "README.md"), readme.encode())
        made = os.path.join(folder, "package.zip")
        with bioimageio_spec.ValidationContext(disable_cache=True):
            bioimageio_spec.save_bioimageio_package(
                _description(about, folder), output_path=made
            )
        path = os.path.join(extra, artefact_layout.BIOIMAGEIO)
        files.write_bytes(path, files.read_bytes(made))


def _write_example(
    segmenter: Segmenter, function, about: dict[str, Any], folder: str
) -> None:
    """A drawn image, what the model says of it, and a picture of both."""
    least, step = block_sizes(about["depth"])
    size = max(least, EXAMPLE_PX - (EXAMPLE_PX - least) % step)
    image = next(iter(draw_cells(size, 1, seed=1)))[0]
    raw = np.repeat(image[..., None], about["channels"], 2)[None].astype(np.float32)
    known = about["normalization"]
    if known:
        normal = (raw - np.float32(known["mean"])) / np.float32(known["std"])
    else:
        normal = normalise_images(raw)
    probabilities = function(tf.constant(normal))["probabilities"].numpy()
    for name, array in (("input", raw), ("output", probabilities)):
        np.save(os.path.join(folder, f"{name}.npy"), array)
    classes = segmenter.outcome(tf.constant(probabilities))["classes"].numpy()[0]
    drawn = overlay(image[..., None], classes)
    files.write_bytes(os.path.join(folder, "cover.png"), png.encode_png(drawn))


def _description(about: dict[str, Any], folder: str):
    """The package's rdf.yaml."""
    from bioimageio.spec.model import v0_5 as spec

    def file(name: str):
        return spec.FileDescr(source=pathlib.Path(folder, name))

    least, step = block_sizes(about["depth"])
    batch = spec.BatchAxis()
    across = spec.ParameterizedSize(min=least, step=step)
    inputs = [
        spec.SpaceInputAxis(id=spec.AxisId(name), size=across, concatenable=True)
        for name in "yx"
    ]
    outputs = [
        spec.SpaceOutputAxisWithHalo(
            id=spec.AxisId(name),
            halo=halo(about["depth"]),
            size=spec.SizeReference(
                tensor_id=spec.TensorId("image"), axis_id=spec.AxisId(name)
            ),
        )
        for name in "yx"
    ]
    channels = [f"channel{number}" for number in range(about["channels"])]
    image = spec.InputTensorDescr(
        id=spec.TensorId("image"),
        axes=[batch, *inputs, spec.ChannelAxis(channel_names=channels)],
        test_tensor=file("input.npy"),
        data=spec.IntervalOrRatioDataDescr(type="float32"),
        preprocessing=[_normalising(spec, about)],
        pad=spec.ReflectPadding(mode="reflect"),  # as `predict` continues images
    )
    probabilities = spec.OutputTensorDescr(
        id=spec.TensorId("probabilities"),
        description="of each class, 0 to 1",
        axes=[batch, *outputs, spec.ChannelAxis(channel_names=about["class_names"])],
        test_tensor=file("output.npy"),
        data=spec.IntervalOrRatioDataDescr(type="float32", range=(0.0, 1.0)),
    )
    weights = spec.OnnxWeightsDescr(
        source=pathlib.Path(folder, "weights.onnx"), opset_version=onnx.OPSET
    )
    name = re.sub("[^A-Za-z0-9]", " ", about["data"]["name"])
    return spec.ModelDescr(
        name=f"U-Net for {name}"[:64],
        description=f"Semantic segmentation by a U-Net of depth {about['depth']}.",
        inputs=[image],
        outputs=[probabilities],
        weights=spec.WeightsDescr(onnx=weights),
        cite=[spec.CiteEntry(text=CITATION, url=spec.HttpUrl(ARXIV))],
        covers=[file("cover.png")],
        documentation=file("README.md"),
    )


def _normalising(spec, about: dict[str, Any]):
    """What is done to intensities: each image's own moments, or the training set's."""
    known = about["normalization"]
    if not known:
        return spec.ZeroMeanUnitVarianceDescr(
            kwargs=spec.ZeroMeanUnitVarianceKwargs(
                axes=[spec.AxisId("y"), spec.AxisId("x")], eps=EPSILON
            )
        )
    return spec.FixedZeroMeanUnitVarianceDescr(
        kwargs=spec.FixedZeroMeanUnitVarianceAlongAxisKwargs(
            axis=spec.AxisId("channel"), mean=known["mean"], std=known["std"]
        )
    )
