"""What is installed: versions, and the checksum in C."""

import importlib
import importlib.metadata
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator

from doctor.finding import Finding
from unet_tfrecords.command.installed import version_of

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = "unet-tfrecords"
INSTALL = "./launch.sh setup"
STAMP = pathlib.Path(sys.prefix) / ".complete"  # of an environment of launch.sh's
SHOWN = ("apache-beam", "numpy", "opencv-python-headless")


def again() -> str:
    """The command that makes this environment what it should be."""
    if not STAMP.exists():
        return INSTALL
    kind = STAMP.read_text().split()[0]
    return f"rm -f {STAMP} && UNET_FLAVOUR={kind} {INSTALL}"


def look() -> Iterator[Finding]:
    """Looks at the environment that this runs in."""
    found = requirements()
    yield found if found.cure or not STAMP.exists() else locked()
    yield checksum()


def not_installed(reason: str) -> Finding:
    """What is found where this package's dependencies are missing."""
    return Finding("packages", f"not installed ({reason})", INSTALL)


def requirements() -> Finding:
    """Whether what this package names is there in versions that fit."""
    try:
        wrong = misfits(importlib.metadata.requires(PACKAGE) or [])
    except (ImportError, importlib.metadata.PackageNotFoundError) as error:
        return not_installed(str(error))
    there = [f"{name} {version_of(name)}" for name in SHOWN]
    return _found(wrong, f"all of the base fit: {', '.join(there)}")


def locked() -> Finding:
    """Whether the versions are those of the lock, that the tests ran with."""
    path = ROOT / "requirements" / f"{STAMP.read_text().split()[0]}.lock"
    pins = re.findall(r"^(\w.*?) *\\?$", path.read_text(), re.M)
    wrong = [f"{problem} (locked)" for problem in misfits(pins)]
    return _found(wrong, f"versions as in requirements/{path.name}")


def _found(wrong: list[str], says: str) -> Finding:
    return Finding("packages", "; ".join(wrong) or says, again() if wrong else "")


def misfits(texts: Iterable[str]) -> list[str]:
    """Packages that are missing or of another version than lines of pip's ask for."""
    from packaging.requirements import Requirement

    wrong = []
    for wanted in map(Requirement, texts):
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue  # another platform's, or an extra's
        version = version_of(wanted.name)
        if not version:
            wrong.append(f"{wanted.name} is missing")
        elif not wanted.specifier.contains(version, prereleases=True):
            wrong.append(f"{wanted.name} {version} is not {wanted.specifier}")
    return wrong


def checksum() -> Finding:
    """Whether TFRecord's checksums are computed in C: in Python they are a crawl."""
    what = "CRC extension"
    cure = f"{sys.executable} -m pip install --force-reinstall google-crc32c"
    try:
        module = importlib.import_module("google_crc32c")
    except ImportError as error:
        return Finding(what, f"cannot be imported: {error}", cure)
    kind = module.implementation
    is_fast = kind == "c"
    slow = "" if is_fast else ", which is slow"
    return Finding(what, f"in {kind.upper()}{slow}", "" if is_fast else cure)
