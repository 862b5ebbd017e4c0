"""SavedModels that take raw images of any size."""

import tensorflow as tf

from preprocess import files
from preprocess.errors import UserError
from preprocess.shards import INFO_NAME, as_json
from trainer import workdir
from trainer.inference import Segmenter
from trainer.restore import restore_network

ASSETS = "assets.extra"  # where TensorFlow Serving expects files it does not load


def next_version(output: str) -> int:
    """One more than the largest version number in a folder, 1 in an empty one."""
    names = files.list_folders(output)
    return max((int(name) for name in names if name.isdigit()), default=0) + 1


def save(segmenter: Segmenter, channels: int, path: str) -> None:
    """Writes a SavedModel with the signature `serving_default`."""
    image = tf.TensorSpec([None, None, None, channels], tf.float32, name="image")
    segment = tf.function(segmenter, input_signature=[image])
    tf.saved_model.save(segmenter, path, signatures={"serving_default": segment})


def export(folder: str, output: str, tile: int, checkpoint: str = "best") -> str:
    """Exports a checkpoint of a run.

    Args:
      folder: the work directory.
      output: the model's folder; versions lie inside.
      tile: the largest input tile in px.
      checkpoint: best, newest or a step.

    Returns:
      The new version's folder.

    Raises:
      UserError: no run or no checkpoint there, or an illegal tile.
    """
    config = workdir.read_config(folder)
    network, step = restore_network(folder, config, checkpoint)
    try:
        segmenter = Segmenter(
            network,
            depth=config.model.depth,
            classes=config.model.classes,
            tile=tile,
            normalization=workdir.read_info(folder)["normalization"],
        )
    except ValueError as error:
        raise UserError(f"--tile: {error}") from None
    version = str(next_version(output))
    final = files.join(output, version)
    temporary = files.join(output, files.TEMPORARY + version)
    files.remove([temporary])
    save(segmenter, config.model.channels, temporary)
    extra = files.join(temporary, ASSETS)
    for name in (workdir.CONFIG_NAME, INFO_NAME):
        content = files.read_bytes(files.join(folder, name))
        files.write_bytes(files.join(extra, name), content)
    files.write_bytes(files.join(extra, "step.json"), as_json({"step": step}))
    tf.io.gfile.rename(temporary, final)
    return final
