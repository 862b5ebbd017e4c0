"""What is installed: versions, and the checksum in C."""

import importlib
import importlib.metadata
import pathlib
import re
import sys
from collections.abc import Iterator

from doctor.finding import Finding
from unet_tfrecords.command.installed import version_of

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = "unet-tfrecords"
INSTALL = "./launch.sh setup"
STAMP = pathlib.Path(sys.prefix) / ".complete"  # of an environment of launch.sh's


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
    what = "packages"
    try:
        from packaging.requirements import Requirement

        texts = importlib.metadata.requires(PACKAGE) or []
    except (ImportError, importlib.metadata.PackageNotFoundError) as error:
        return not_installed(str(error))
    wanted = [Requirement(text) for text in texts]
    base = [r for r in wanted if not r.marker or r.marker.evaluate({"extra": ""})]
    wrong = [problem for one in base if (problem := _misfit(one.name, one.specifier))]
    if wrong:
        return Finding(what, "; ".join(wrong), again())
    names = ("apache-beam", "numpy", "opencv-python-headless")
    there = [f"{name} {importlib.metadata.version(name)}" for name in names]
    return Finding(what, f"all {len(base)} of the base fit: {', '.join(there)}")


def _misfit(name: str, specifier) -> str:
    """What is wrong with an installed package; "" if nothing is."""
    version = version_of(name)
    if not version:
        return f"{name} is missing"
    if specifier.contains(version, prereleases=True):
        return ""
    return f"{name} {version} is not {specifier}"


def locked() -> Finding:
    """Whether the versions are those of the lock, that the tests ran with."""
    what = "packages"
    path = ROOT / "requirements" / f"{STAMP.read_text().split()[0]}.lock"
    wrong = []
    for name, version in _pins(path.read_text()).items():
        there = version_of(name)  # "": another platform's; the above finds ours
        if there and there not in version:
            wrong.append(f"{name} {there}, locked {' or '.join(sorted(version))}")
    if wrong:
        return Finding(what, "; ".join(wrong), again())
    return Finding(what, f"versions as in requirements/{path.name}")


def _pins(text: str) -> dict[str, set[str]]:
    """Versions by name; several where Pythons or platforms differ."""
    pins: dict[str, set[str]] = {}
    for name, version in re.findall(
        r"^([\w.-]+)(?:\[[^]]*\])?==([^\s;\\]+)", text, re.M
    ):
        pins.setdefault(name, set()).add(version)
    return pins


def checksum() -> Finding:
    """Whether TFRecord's checksums are computed in C: in Python they are a crawl."""
    what = "CRC extension"
    cure = f"{sys.executable} -m pip install --force-reinstall google-crc32c"
    try:
        module = importlib.import_module("google_crc32c")
    except ImportError as error:
        return Finding(what, f"cannot be imported: {error}", cure)
    if module.implementation == "c":
        return Finding(what, "in C")
    return Finding(what, f"in {module.implementation}: slow", cure)
