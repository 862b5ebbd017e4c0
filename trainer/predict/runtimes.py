"""An exported model, ready for images or their tiles: by TensorFlow, or by onnxruntime.

Neither needs the trainer's model code. TensorFlow is loaded only where it is used.
"""

import functools
import os
from typing import Any, NamedTuple

import numpy as np

from trainer.devices import tensorflow_files
from trainer.export import artefact_layout
from trainer.inference import numpy_segmenter
from trainer.inference.instances import Outputs
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.command.extras import load_extra
from unet_tfrecords.storage import files, local_copies


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
) -> "list[Runtime]":
    """A version of a model on every device there is.

    Args:
      version: its folder.
      runtime: tensorflow or onnx.
      tta: averages over the eight symmetries of the square.
      devices: above 0, how many logical devices; see `strategy.start`.

    Raises:
      UserError: broken, made by something else, or without what the runtime needs.
    """
    about = artefact_layout.read_about(version)
    paths = model_files(version, runtime)
    names = [path[len(version) :].strip("/") for path in paths]
    artefact_layout.check(version, names)
    if runtime == "onnx":
        [path] = paths
        return [OnnxRuntime(path, about, tta=tta)]
    from trainer.devices import strategy

    with local_copies.copied(version, names) as near:
        return [
            TensorFlowRuntime(near, name=version, tta=tta, device=device)
            for device in strategy.device_names(devices)
        ]


class TileMoments(NamedTuple):
    """Mean and deviation of a whole image, by which a model normalises its tiles.

    Attributes:
      mean, std: float32 [C], of its intensities.
    """

    mean: np.ndarray
    std: np.ndarray


class TensorFlowRuntime:
    """A SavedModel on one device."""

    def __init__(
        self, path: str, *, name: str = "", tta: bool = False, device: str = ""
    ):
        """Loads a SavedModel of this machine, which errors call `name`."""
        import tensorflow as tf

        self.device = device
        try:
            with tf.device(device):
                # The signature alone does not keep the model alive.
                self.model = tf.saved_model.load(path)
            signature = "image_tta" if tta else "serving_default"
            self.function = self.model.signatures[signature]
            self.of_tile = self.model.signatures.get("tile")
        except Exception as error:
            # TensorFlow raises anything from OSError to KeyError here.
            tensorflow_files.check_name(path)
            reason = " ".join(str(error).split())[:150]
            raise UserError(
                f"{name or path}: not a SavedModel of export's ({reason})"
            ) from error

    def segment(self, image: np.ndarray) -> Outputs:
        """Of one image, raw intensities [H, W, C]."""
        return Outputs(*self._run(self.function, image=image))

    def segment_tile(self, tile: np.ndarray, how: TileMoments | None) -> np.ndarray:
        """Of a legal tile [h, w, C]: float32 [h - border, w - border, K + P]."""
        if self.of_tile is None:
            raise UserError("this model has no signature 'tile'; export it again")
        parts = self._run(self.of_tile, tile=tile, **(how._asdict() if how else {}))
        return np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]

    def _run(self, function: Any, **arrays: np.ndarray) -> list[np.ndarray]:
        """Outputs of one image or tile; all arrays without the axis of a batch."""
        import tensorflow as tf

        with tf.device(self.device):
            try:
                # Cast there: fewer bytes cross.
                given = {n: tf.constant(array[None]) for n, array in arrays.items()}
                result = function(
                    **{n: tf.cast(each, tf.float32) for n, each in given.items()}
                )
            except tf.errors.ResourceExhaustedError as error:
                raise UserError(
                    "needs more memory than there is; export with a smaller --memory_mb"
                ) from error
        named = ("probabilities", "planes")  # numpy() would be a copy
        return [np.asarray(result[n])[0] for n in named if n in result]


class OnnxRuntime:
    """tile.onnx on the processor; the rest as in the graph, by NumPy."""

    def __init__(self, path: str, about: dict[str, Any], *, tta: bool = False):
        """Loads tile.onnx, as `load` does."""
        onnxruntime = load_extra("onnxruntime", flag="--runtime=onnx", extra="onnx")
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
        self.classes = about["classes"]
        self.outputs = ["probabilities"]
        if artefact_layout.planes_of(about):
            self.outputs.append("planes")
        self.geometry = {name: about[name] for name in ("depth", "tile")}
        self.tta = bool(tta or about.get("tta"))

    def segment(self, image: np.ndarray) -> Outputs:
        """Of one image, raw intensities [H, W, C]."""
        if "mean" in self.inputs:
            image = numpy_segmenter.normalise(image)
        else:  # the data set's mean and deviation are in the file
            image = image.astype(np.float32)
        # It is normalised already.
        channels = image.shape[2]
        as_it_is = TileMoments(
            np.zeros(channels, np.float32), np.ones(channels, np.float32)
        )
        network = functools.partial(self.segment_tile, how=as_it_is)
        made = numpy_segmenter.segment(image, network, tta=self.tta, **self.geometry)
        parts = np.split(made, [self.classes], axis=-1)
        return Outputs(*parts[: len(self.outputs)])

    def segment_tile(self, tile: np.ndarray, how: TileMoments | None) -> np.ndarray:
        """Of a legal tile [h, w, C]: float32 [h - border, w - border, K + P]."""
        given = {"tile": tile[None].astype(np.float32, copy=False)}
        if how and "mean" in self.inputs:
            given |= {name: each[None] for name, each in how._asdict().items()}
        made = [each[0] for each in self.session.run(self.outputs, given)]
        return np.concatenate(made, axis=-1) if len(made) > 1 else made[0]


Runtime = TensorFlowRuntime | OnnxRuntime
