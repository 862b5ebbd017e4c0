"""Libraries that only some users install."""

import importlib
from typing import Any

from unet_tfrecords.command.errors import UserError


def load_extra(module: str, *, flag: str, extra: str) -> Any:
    """Imports a module of one of pyproject.toml's extras.

    Raises:
      UserError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{flag} needs {module} ({error}): pip install 'unet-tfrecords[{extra}]'"
        ) from error
