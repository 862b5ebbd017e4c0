"""The software that a run or a model was made with."""

from unet_tfrecords.command.installed import version_of

PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "numpy", "unet-tfrecords")


def versions() -> dict[str, str]:
    """Installed versions of the packages that a model depends on, by name."""
    return {name: found for name in PACKAGES if (found := version_of(name))}
