"""What is installed beside this."""

import importlib.metadata


def version_of(package: str) -> str:
    """An installed package's version; "" where it is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
