"""Where things lie in an artefact; read without TensorFlow.

MODEL/VERSION/saved_model.pb, variables/   the signatures and the weights
              assets.extra/                what TensorFlow Serving passes over:
                config.json                the run's
                model.json                 what programs must know: see `about`
                model_card.md              for people
                tile.onnx                  where asked for
                bioimageio.zip             where asked for
                SHA256SUMS                 of the files above; `predict` checks them
                tf_serving_warmup_requests which Serving replays before it answers
"""

from collections.abc import Iterable, Mapping
from typing import Any

from unet_tfrecords.command.errors import UserError
from unet_tfrecords.storage import checksums, files, json_files

GRAPH = "saved_model.pb"
VARIABLES = "variables"
EXTRA = "assets.extra"
CONFIG = "config.json"
ABOUT = "model.json"
CARD = "model_card.md"
ONNX = "tile.onnx"
BIOIMAGEIO = "bioimageio.zip"
WARMUP = "tf_serving_warmup_requests"
SUMS = f"{EXTRA}/{checksums.NAME}"


def newest_version(model: str) -> str:
    """The SavedModel's folder: the given one, or the largest version inside.

    Raises:
      UserError: no SavedModel there.
    """
    if files.exists(files.join(model, GRAPH)):
        return model
    versions = [name for name in files.list_folders(model) if name.isdecimal()]
    for name in sorted(versions, key=int, reverse=True):
        if files.exists(files.join(model, name, GRAPH)):
            return files.join(model, name)
    raise UserError(
        f"{model}: no {GRAPH} in it or in a version's folder; "
        "--model names the folder that export made"
    )


def check(version: str, names: Iterable[str]) -> None:
    """Compares files of a version with what export wrote.

    Weights may be constants of saved_model.pb, of whose bytes TensorFlow has no
    checksum: a changed one would be another network, or end the interpreter.

    Raises:
      UserError: some are missing or have changed.
    """
    checksums.check(version, names, SUMS)


def read_about(version: str) -> dict[str, Any]:
    """What model.json says of a version.

    Raises:
      UserError: it isn't there, or broken.
    """
    path = files.join(version, EXTRA, ABOUT)
    if not files.exists(path):
        raise UserError(f"{version}: not a SavedModel of export's: no {EXTRA}/{ABOUT}")
    check(version, [f"{EXTRA}/{ABOUT}"])
    about = json_files.read(path, cure="export again")
    if missing := [name for name in NEEDED if name not in about]:
        raise UserError(f"{path}: broken (no {', '.join(missing)}); export again")
    return about


NEEDED = ("channels", "class_names", "classes", "depth", "normalization", "tile")


def planes_of(about: Mapping[str, Any]) -> int:
    """How many planes a model's target has, beside its classes."""
    return about.get("targets", {}).get("planes", 0)
