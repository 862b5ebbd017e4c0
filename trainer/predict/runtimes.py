"""An exported model, ready for whole images: by TensorFlow, or by onnxruntime.

Neither needs the trainer's model code. TensorFlow is loaded only where it is used.
"""

import itertools
import os
from typing import Any, Protocol

import numpy as np

from trainer.devices import tensorflow_stores
from trainer.export import artefact_layout
from trainer.inference.symmetry import SYMMETRIES, Symmetry
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset import tiling
from unet_tfrecords.dataset.pixel_statistics import strips
from unet_tfrecords.storage import files


class Runtime(Protocol):
    """A model on one device."""

    def segment(self, image: np.ndarray) -> np.ndarray:
        """Probabilities, float32 [H, W, K], of one image, raw intensities [H, W, C]."""


def model_files(version: str, runtime: str) -> list[str]:
    """The files that hold a version's network for a runtime.

    Raises:
      UserError: it was not exported.
    """
    if runtime == "tensorflow":
        inside = files.join(version, artefact_layout.VARIABLES)
        variables = files.glob_in(inside, f"{artefact_layout.VARIABLES}.*")
        return [files.join(version, artefact_layout.GRAPH), *variables]
    path = files.join(version, artefact_layout.EXTRA, artefact_layout.ONNX)
    if not files.exists(path):
        raise UserError(f"{path}: missing; export with --onnx")
    return [path]


def load(
    version: str, *, runtime: str, tta: bool = False, devices: int = 0
) -> list[Runtime]:
    """A version of a model on every device there is.

    Args:
      version: its folder.
      runtime: tensorflow or onnx.
      tta: averages over the eight symmetries of the square.
      devices: above 0, so many logical devices; see `strategy.start`.

    Raises:
      UserError: broken, made by something else, or without what the runtime needs.
    """
    about = artefact_layout.read_about(version)
    paths = model_files(version, runtime)
    artefact_layout.check(version, [path[len(version) :].strip("/") for path in paths])
    if runtime == "onnx":
        [path] = paths
        return [OnnxRuntime(path, about, tta=tta)]
    from trainer.devices import strategy

    names = strategy.device_names(devices)
    return [TensorFlowRuntime(version, tta=tta, device=name) for name in names]


class TensorFlowRuntime:
    """A SavedModel on one device."""

    def __init__(self, path: str, *, tta: bool = False, device: str = ""):
        """Loads a SavedModel, as `load` does."""
        import tensorflow as tf

        self.device = device
        try:
            with tf.device(device):
                # The signature alone does not keep the model alive.
                self.model = tf.saved_model.load(path)
            name = "image_tta" if tta else "serving_default"
            self.function = self.model.signatures[name]
        except Exception as error:
            # TensorFlow raises anything from OSError to KeyError here.
            if line := tensorflow_stores.line_of(error, [path]):
                raise UserError(line) from error
            tensorflow_stores.check_name(path)
            reason = " ".join(str(error).split())[:150]
            raise UserError(
                f"{path}: not a SavedModel of export's ({reason})"
            ) from error

    def segment(self, image: np.ndarray) -> np.ndarray:
        """Probabilities, float32 [H, W, K], of one image, raw intensities [H, W, C]."""
        import tensorflow as tf

        with tf.device(self.device):
            try:
                batch = tf.constant(image[None])  # cast there: fewer bytes cross
                result = self.function(image=tf.cast(batch, tf.float32))
            except tf.errors.ResourceExhaustedError as error:
                raise UserError(
                    "needs more memory than there is; export with a smaller --memory_mb"
                ) from error
        return np.asarray(result["probabilities"])[0]  # numpy() would be a copy


class OnnxRuntime:
    """tile.onnx on the processor; normalised, mirrored and stitched as in the graph."""

    def __init__(self, path: str, about: dict[str, Any], *, tta: bool = False):
        """Loads tile.onnx, as `load` does."""
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(
                f"--runtime=onnx needs onnxruntime ({error}): "
                "pip install 'unet-tfrecords[onnx]'"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        try:
            self.session = onnxruntime.InferenceSession(
                files.read_bytes(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its own classes, which share no useful base
            reason = " ".join(str(error).split())[:150]
            raise UserError(
                f"{path}: not an ONNX file of export's ({reason})"
            ) from None
        self.inputs = [entry.name for entry in self.session.get_inputs()]
        self.outputs = {
            entry.name: i for i, entry in enumerate(self.session.get_outputs())
        }
        self.depth = about["depth"]
        self.classes = about["classes"]
        self.largest_output = tiling.output_size(about["tile"], self.depth)
        self.symmetries = SYMMETRIES if tta or about.get("tta") else SYMMETRIES[:1]

    def segment(self, image: np.ndarray) -> np.ndarray:
        """Probabilities, float32 [H, W, K], of one image, raw intensities [H, W, C]."""
        image = image.astype(np.float32)
        # From the first pixel's value, as `inference.normalise_images` does.
        origin = image[0, 0].copy()
        image -= origin
        mean = image.mean((0, 1), dtype=np.float64)
        # NumPy's own would make a float64 copy of the image.
        squares = sum(np.square(some - mean).sum((0, 1)) for some in strips(image))
        std = np.sqrt(squares / image[..., 0].size)
        if len(self.symmetries) == 1:
            return self._stitch(image, mean, std, origin)
        total = np.zeros((*image.shape[:2], self.classes), np.float32)
        for symmetry in self.symmetries:
            turned = _apply(symmetry, image)
            total += _undo(symmetry, self._stitch(turned, mean, std, origin))
        total /= len(self.symmetries)
        return total

    def _stitch(self, image, mean, std, origin) -> np.ndarray:
        """Probabilities of an image from which `origin` was taken, tile by tile."""
        around = tiling.border(self.depth) + 4  # see inference_grid on the 4
        pad = tiling.pad(self.depth)
        (rows, down), (columns, across) = (
            tiling.inference_grid(size, self.largest_output, self.depth)
            for size in image.shape[:2]
        )
        whole = np.empty((rows * down, columns * across, self.classes), np.float32)
        for row, column in itertools.product(range(rows), range(columns)):
            top, left = row * down, column * across
            ys = tiling.mirror_indices(
                top - pad, top + down + around - pad, image.shape[0]
            )
            xs = tiling.mirror_indices(
                left - pad, left + across + around - pad, image.shape[1]
            )
            probabilities = self._tile(image[ys[:, None], xs], mean, std, origin)
            whole[top : top + down, left : left + across] = probabilities[
                :down, :across
            ]
        return whole[: image.shape[0], : image.shape[1]]

    def _tile(self, tile, mean, std, origin) -> np.ndarray:
        given = {"tile": tile[None]}
        if "mean" in self.inputs:
            given["mean"] = mean[None].astype(np.float32)
            given["std"] = std[None].astype(np.float32)
        else:  # the data set's, in the file
            given["tile"] = given["tile"] + origin
        made = self.session.run(None, given)
        return made[self.outputs["probabilities"]][0]


def _apply(symmetry: Symmetry, image: np.ndarray) -> np.ndarray:
    if symmetry.transposed:
        image = image.transpose(1, 0, 2)
    return np.flip(image, _axes(symmetry))


def _undo(symmetry: Symmetry, image: np.ndarray) -> np.ndarray:
    image = np.flip(image, _axes(symmetry))
    return image.transpose(1, 0, 2) if symmetry.transposed else image


def _axes(symmetry: Symmetry) -> tuple[int, ...]:
    """Of an image without a batch."""
    return tuple(axis - 1 for axis in symmetry.axes)
