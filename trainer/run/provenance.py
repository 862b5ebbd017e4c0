"""The software that a run or a model was made with."""

from importlib import metadata

PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "numpy", "unet-tfrecords")


def versions() -> dict[str, str]:
    """Installed versions of the packages that a model depends on, by name."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
