"""Writes docs/licences.md: what is installed, in which version, under which licence.

    python -m tests.project.licences

Reads the metadata of the installed packages; asks no network.
"""

import importlib.metadata
import pathlib
import re

from packaging.licenses import (
    InvalidLicenseExpression,
    canonicalize_license_expression,
)
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parents[2]
LOCK = ROOT / "requirements/cpu.lock"
PAGE = ROOT / "docs/licences.md"
PROJECT = "unet-tfrecords"
# Permissive, and MPL-2.0, whose copyleft ends at its own files.
ALLOWED = {
    *("0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC"),
    *("CNRI-Python", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Unlicense"),
    "Zlib",
}
WORDS = {  # what metadata say that is no SPDX expression
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD",
    "BSD License": "BSD",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
EXCEPTIONS = {  # whose metadata name none; read in the licence file they bring along
    "bioimageio-core": "MIT",
    "bioimageio-spec": "MIT",
    "namex": "Apache-2.0",
    "py-ctcmetrics": "BSD-3-Clause",
    "simple-parsing": "MIT",
}
# Newest final release of what pyproject.toml names, as PyPI said on 2026-11-29.
RELEASED = {
    "absl-py": "2026-10-09",
    "adlfs": "2026-08-11",
    "apache-beam": "2026-10-07",
    "bioimageio-spec": "2026-10-16",
    "fsspec": "2026-09-18",
    "gcsfs": "2026-10-22",
    "google-cloud-storage": "2026-10-15",
    "google-crc32c": "2026-09-24",
    "imagecodecs": "2026-10-09",
    "jinja2": "2025-03-05",
    "keras": "2026-07-29",
    "matplotlib": "2026-09-11",
    "ml-collections": "2025-04-17",
    "msgspec": "2026-11-28",
    "numpy": "2026-11-15",
    "onnx": "2026-10-06",
    "onnxruntime": "2026-11-13",
    "opencv-python-headless": "2026-07-02",
    "pillow": "2026-10-16",
    "protobuf": "2026-09-17",
    "roifile": "2026-11-07",
    "s3fs": "2026-09-18",
    "scikit-image": "2025-12-20",
    "shapely": "2026-10-07",
    "tensorboard": "2026-06-29",
    "tensorflow-cpu": "2026-03-06",
    "tifffile": "2026-11-08",
    "tqdm": "2026-09-11",
    "xprof": "2026-10-29",
    "zarr": "2026-10-27",
}
HEAD = """# Which licences has what is installed?

Apache-2.0 is our own. `python -m tests.project.licences` writes this page from the
metadata of the installed packages; `tests/project/test_licences.py` checks that each is
under permissive licences or MPL-2.0, and that the table is that of
`requirements/cpu.lock`. Versions are those on Linux with Python 3.11.

* **Nothing is under the GPL, AGPL or LGPL by its metadata.** Some wheels bring compiled
  libraries along that are: `opencv-python-headless` FFmpeg (LGPL-2.1, in files of its
  own, which can be exchanged); it, NumPy and SciPy have GCC's run-time libraries
  (`libgfortran`: GPL-3 with its exception; `libquadmath`: LGPL-2.1). Using them
  asks nothing. Who passes on an image with them (`deploy/*.Dockerfile`) passes on their
  licence texts too: they lie in the wheels' `*.dist-info`.
* `requirements/gpu.lock` adds NVIDIA's CUDA libraries (`nvidia-*`), which are not free
  software: NVIDIA's terms allow their use and, within limits, passing them on.
* The last column has the date of the newest release of each package that
  `pyproject.toml` names, as PyPI said on 2026-11-29: whether it is still maintained.
  `tensorflow-io` (extra `io`) is not: its last release is of 2024-07-01.
* MPL-2.0: changes of those packages' own files have to be published; we make none.
"""
KINDS = {
    "base": "of the base, which a Beam worker installs: `pip install unet-tfrecords`",
    "cpu": "more with TensorFlow, for all commands: the extra `cpu`",
    "test": "more for the tests: the extra `test`",
}


def locked() -> list[str]:
    """Names in the lock."""
    names = re.findall(r"^([a-z0-9][a-z0-9.-]*)==", LOCK.read_text(), flags=re.M)
    return sorted(set(names))


def installed(names: list[str]) -> list[str]:
    """Those that are here; others are for other systems or Pythons."""
    there = {
        canonicalize_name(each.metadata["Name"])
        for each in importlib.metadata.distributions()
    }
    return [name for name in names if name in there]


def licence(name: str) -> str:
    """SPDX expression, or "BSD"; "unknown: ..." where the metadata can't be read."""
    if name in EXCEPTIONS:
        return EXCEPTIONS[name]
    metadata = importlib.metadata.metadata(name)
    classifiers = [
        text.rpartition(" :: ")[2]
        for text in metadata.get_all("Classifier") or []
        if text.startswith("License :: OSI Approved :: ")
    ]
    told = [metadata.get("License-Expression"), metadata.get("License")]
    for text in filter(None, told):
        try:
            return canonicalize_license_expression(WORDS.get(text, text))
        except InvalidLicenseExpression:
            if text in WORDS:
                return WORDS[text]
    if classifiers and all(text in WORDS for text in classifiers):
        return " AND ".join(sorted(WORDS[text] for text in classifiers))
    return f"unknown: {told} {classifiers}"


def is_allowed(expression: str) -> bool:
    """Whether each licence of an expression is, those of an OR too.

    >>> is_allowed("MPL-2.0 AND (Apache-2.0 OR MIT)"), is_allowed("MIT OR GPL-3.0-only")
    (True, False)
    """
    words = set(re.findall(r"[^\s()]+", expression)) - {"AND", "OR"}
    return bool(words) and words <= ALLOWED


def needed(extras: set[str]) -> set[str]:
    """Installed packages that the project with some extras brings along."""
    found: set[str] = set()
    waiting = [(PROJECT, frozenset(extras))]
    seen = set()
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # of another system
            continue
        found.add(name)
        for requirement in map(Requirement, lines):
            marker = requirement.marker
            if marker is None or any(
                marker.evaluate({"extra": extra}) for extra in {"", *wanted}
            ):
                other = canonicalize_name(requirement.name)
                waiting.append((other, frozenset(requirement.extras)))
    return found - {PROJECT}


def rows() -> list[tuple[str, str, str, str]]:
    """Package, version, licence and what it is for."""
    base, cpu = needed(set()), needed({"cpu"})
    made = []
    for name in installed(locked()):
        kind = "base" if name in base else "cpu" if name in cpu else "test"
        version = importlib.metadata.version(name)
        made.append((name, version, licence(name), kind))
    order = list(KINDS)
    return sorted(made, key=lambda row: (order.index(row[3]), row[0]))


def page() -> str:
    """The page, Markdown."""
    text = [HEAD]
    made = rows()
    for kind, what in KINDS.items():
        own = [row for row in made if row[3] == kind]
        text += [f"## {len(own)} packages {what}\n"]
        text += ["| package | version | licence | newest release |\n|---|---|---|---|"]
        text += [
            f"| {name} | {version} | {said} | {RELEASED.get(name, '')} |"
            for name, version, said, _ in own
        ]
        text += [""]
    elsewhere = sorted(set(locked()) - {row[0] for row in made})
    text += [f"Locked for other systems or Pythons: {', '.join(elsewhere)}."]
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE)
