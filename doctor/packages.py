"""What is installed: versions, the checksum in C, what workers far away get."""

import importlib
import importlib.metadata
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator

from doctor.finding import Finding

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = "unet-tfrecords"
INSTALL = "./launch.sh setup"
STAMP = pathlib.Path(sys.prefix) / ".complete"  # of an environment of launch.sh's
BUILD_S = 120


def again() -> str:
    """The command that makes this environment what it should be."""
    if not STAMP.exists():
        return INSTALL
    kind = STAMP.read_text().split()[0]
    return f"rm -f {STAMP} && UNET_FLAVOUR={kind} {INSTALL}"


def look() -> Iterator[Finding]:
    """Looks at the environment that this runs in."""
    found = requirements()
    yield found
    if found.cure == INSTALL:
        return
    yield locked()
    yield checksum()
    yield staging()


def requirements() -> Finding:
    """Whether what this package names is there in versions that fit."""
    what = "packages"
    try:
        from packaging.requirements import Requirement

        texts = importlib.metadata.requires(PACKAGE) or []
    except (ImportError, importlib.metadata.PackageNotFoundError) as error:
        return Finding(what, f"not installed ({error})", INSTALL)
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
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"{name} is missing"
    if specifier.contains(version, prereleases=True):
        return ""
    return f"{name} {version} is not {specifier}"


def locked() -> Finding:
    """Whether the versions are those of the lock, that the tests ran with."""
    what = "lock"
    if not STAMP.exists():
        return Finding(
            what, f"{sys.prefix} was not made by launch.sh: versions unknown"
        )
    path = ROOT / "requirements" / f"{STAMP.read_text().split()[0]}.lock"
    wrong = []
    for name, version in _pins(path.read_text()).items():
        try:
            there = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # another platform's, by its marker; the above finds ours
        if there not in version:
            wrong.append(f"{name} {there}, locked {' or '.join(sorted(version))}")
    if wrong:
        return Finding(what, "; ".join(wrong), again())
    return Finding(what, f"as in requirements/{path.name}")


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


def staging() -> Finding:
    """Whether the package that Beam sends to its workers can be built."""
    what = "Beam's staging build"
    cure = f"{sys.executable} -m pip install --upgrade setuptools"
    if not (ROOT / "setup.py").exists():
        return Finding(
            what,
            "no setup.py here: Dataflow needs a checkout",
            "preprocess from a checkout, or with --sdk_container_image=IMAGE",
        )
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "setup.py", "-q", "sdist", "--dist-dir", folder]
        try:
            done = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, timeout=BUILD_S
            )
        except subprocess.TimeoutExpired:
            return Finding(what, f"not done after {BUILD_S} s", cure)
        made = list(pathlib.Path(folder).glob("*.tar.gz"))
        if done.returncode or not made:
            last = (done.stderr.strip().splitlines() or ["no archive"])[-1]
            return Finding(what, last, cure)
        with tarfile.open(made[0]) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
        if "preprocess/main.py" not in names:
            return Finding(
                what, "preprocess/ is not in it", "git status; git checkout ."
            )
        return Finding(what, f"{made[0].name}, {made[0].stat().st_size / 1e3:.0f} kB")
