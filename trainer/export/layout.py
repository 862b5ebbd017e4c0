"""Where things lie in an artefact; read without TensorFlow.

MODEL/VERSION/saved_model.pb, variables/   the signatures and the weights
              assets.extra/                what TensorFlow Serving passes over:
                config.json                the run's
                model.json                 what programs must know: see `about`
                model_card.md              for people
                tile.onnx                  where asked for
                tf_serving_warmup_requests which Serving replays before it answers
"""

import json
from typing import Any

from preprocess import files
from preprocess.errors import UserError

GRAPH = "saved_model.pb"
VARIABLES = "variables"
EXTRA = "assets.extra"
CONFIG = "config.json"
ABOUT = "model.json"
CARD = "model_card.md"
ONNX = "tile.onnx"
WARMUP = "tf_serving_warmup_requests"


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


def read_about(version: str) -> dict[str, Any]:
    """What model.json says of a version.

    Raises:
      UserError: it isn't there, or broken.
    """
    path = files.join(version, EXTRA, ABOUT)
    if not files.exists(path):
        raise UserError(f"{version}: not a SavedModel of export's: no {EXTRA}/{ABOUT}")
    try:
        about = json.loads(files.read_bytes(path))
        return {name: about[name] for name in NEEDED} | about
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: broken ({error}); export again") from None


NEEDED = ("channels", "class_names", "classes", "depth", "normalization", "tile")
