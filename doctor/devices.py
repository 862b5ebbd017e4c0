"""GPUs, their driver and libraries, and what TensorFlow makes of them."""

import glob
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from doctor.finding import Finding
from doctor.packages import again

# The oldest Linux driver of each CUDA, by NVIDIA's table of minor versions.
DRIVERS = {11: (450, 80), 12: (525, 60), 13: (580, 65)}
QUERY = "name,driver_version,compute_cap,memory.total"
PROBE_S = 180
INSTALL = "install NVIDIA's driver and reboot; in a container, start it with --gpus=all"


class Gpu(NamedTuple):
    """One line of nvidia-smi."""

    name: str
    driver: str
    capability: tuple[int, ...]
    memory: str


def look(paths: Sequence[str] = ()) -> Iterator[Finding]:
    """Looks at TensorFlow and the GPUs.

    Args:
      paths: remote ones that TensorFlow's own clients must reach.
    """
    gpus, trouble = find_gpus()
    seen, reason = run_probe(paths)
    yield tensorflow(seen, reason)
    yield graphics(gpus, trouble)
    if gpus:
        yield driver(gpus, seen.get("cuda", ""))
    if gpus and seen:
        yield libraries(_nvidia_packages())
        yield visible(gpus, seen)
    if seen:
        yield precision(seen)
    if seen.get("reduces") is not None and len(seen.get("capabilities", ())) > 1:
        yield nccl(seen["reduces"])
    for path, problem in seen.get("reached", {}).items():
        yield reached(path, problem)


def find_gpus() -> tuple[list[Gpu], str]:
    """The GPUs that the driver knows, and what is wrong where it can't say."""
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"]
    try:
        told = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=60
        )
    except FileNotFoundError:
        return [], "there is one, but no nvidia-smi" if _has_nvidia() else ""
    except OSError as error:
        return [], f"nvidia-smi can't be run: {error.strerror}"
    except subprocess.TimeoutExpired:
        return [], "nvidia-smi does not answer"
    # Warnings may stand among the lines of the GPUs.
    rows = (line.rsplit(",", 3) for line in told.stdout.splitlines())
    gpus = [
        Gpu(row[0].strip(), row[1].strip(), _numbers(row[2].strip()), row[3].strip())
        for row in rows
        if len(row) == 4
    ]
    if told.returncode or not gpus:
        said = (told.stdout + told.stderr).strip().splitlines()
        return [], f"nvidia-smi: {said[0] if said else told.returncode}"
    return gpus, ""


def _has_nvidia() -> bool:
    """Whether there is a display or computing card of NVIDIA's, driver or not."""
    for folder in glob.glob("/sys/bus/pci/devices/*"):
        try:
            vendor = pathlib.Path(folder, "vendor").read_text().strip()
            kind = pathlib.Path(folder, "class").read_text().strip()
        except OSError:
            continue
        if vendor == "0x10de" and kind.startswith("0x03"):
            return True
    return bool(glob.glob("/dev/nvidia[0-9]*"))


def _numbers(version: str) -> tuple[int, ...]:
    """A version's numbers, as far as it has any."""
    parts = []
    for part in version.split("."):
        if not part.strip().isdigit():
            break
        parts.append(int(part))
    return tuple(parts)


def run_probe(paths: Sequence[str]) -> tuple[dict[str, Any], str]:
    """What doctor/probe.py tells, and why it didn't."""
    command = [sys.executable, "-m", "doctor.probe", *paths]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_S)
    except subprocess.TimeoutExpired:
        return {}, f"did not start or did not reach {' '.join(paths)} in {PROBE_S} s"
    for line in done.stdout.splitlines():
        if line.startswith("{"):  # whole, whatever becomes of the process at its end
            return json.loads(line), ""
    lines = done.stderr.strip().splitlines()
    return {}, lines[-1] if lines else f"ended by signal {-done.returncode}"


def tensorflow(seen: dict[str, Any], reason: str) -> Finding:
    """Whether it starts and computes."""
    if reason:
        return Finding("TensorFlow", reason, again())
    says = f"{seen['tensorflow']}, Keras {seen['keras']}"
    says += f", built for CUDA {seen['cuda']}" if seen["cuda"] else ""
    if seen["computes"]:
        return Finding("TensorFlow", f"{says}: {seen['computes']}", again())
    return Finding("TensorFlow", says)


def graphics(gpus: Sequence[Gpu], trouble: str) -> Finding:
    """Which GPUs there are."""
    if trouble:
        return Finding("GPUs", trouble, INSTALL)
    if not gpus:
        return Finding("GPUs", "none of NVIDIA's: the processor does the work")
    each = (f"{gpu.name} ({gpu.memory})" for gpu in gpus)
    return Finding("GPUs", ", ".join(each))


def driver(gpus: Sequence[Gpu], cuda: str) -> Finding:
    """Whether the driver is new enough for the CUDA that TensorFlow was built for."""
    version = gpus[0].driver
    oldest = DRIVERS.get(_numbers(cuda)[0]) if _numbers(cuda) else None
    if oldest and () < _numbers(version)[:2] < oldest:
        wanted = ".".join(map(str, oldest))
        says = f"{version}; CUDA {cuda} wants {wanted} or newer"
        return Finding("driver", says, f"install NVIDIA's driver {wanted} or newer")
    return Finding("driver", f"{version}{f', does for CUDA {cuda}' if oldest else ''}")


def _nvidia_packages() -> dict[str, tuple[str, str]]:
    """CUDA's libraries that TensorFlow names: installed ("" if not), and wanted."""
    from packaging.requirements import Requirement

    try:
        texts = importlib.metadata.requires("tensorflow") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found = {}
    for text in texts:
        one = Requirement(text)
        if one.name.startswith("nvidia-"):
            there = ""
            try:
                there = importlib.metadata.version(one.name)
            except importlib.metadata.PackageNotFoundError:
                pass
            fits = there and one.specifier.contains(there)
            found[one.name] = (
                (there if fits else there and f"{there}!"),
                str(one.specifier),
            )
    return found


def libraries(packages: dict[str, tuple[str, str]]) -> Finding:
    """Whether CUDA's libraries lie beside TensorFlow, NCCL among them."""
    what = "CUDA libraries"
    if not packages:
        return Finding(what, "none: this TensorFlow is the processor's", again())
    wrong = [
        f"{name} {there.rstrip('!')} is not {wanted}" if there else f"{name} is missing"
        for name, (there, wanted) in packages.items()
        if not there or there.endswith("!")
    ]
    if wrong:
        return Finding(what, "; ".join(wrong), again())
    telling = [n for n in packages if "cudnn" in n or "nccl" in n]
    each = ", ".join(f"{name} {packages[name][0]}" for name in telling)
    return Finding(what, f"{len(packages)} packages: {each}")


def visible(gpus: Sequence[Gpu], seen: dict[str, Any]) -> Finding:
    """Whether TensorFlow takes all of the GPUs."""
    number = len(seen.get("capabilities", ()))
    says = f"TensorFlow takes {number} of {len(gpus)}"
    if number == len(gpus):
        return Finding("GPUs taken", says)
    if (hidden := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        cure = f"unset CUDA_VISIBLE_DEVICES (it is {hidden!r}), if all are wanted"
        return Finding("GPUs taken", says, cure)
    return Finding("GPUs taken", says, f"mend what is above, then {again()}")


def precision(seen: dict[str, Any]) -> Finding:
    """What --config.train.precision=auto comes to."""
    each = ", ".join(".".join(map(str, pair)) for pair in seen["capabilities"])
    where = f"compute capability {each}" if each else "on the processor"
    return Finding("precision", f"{seen['precision']}, {where}")


def nccl(problem: str) -> Finding:
    """Whether the GPUs add up gradients."""
    if problem:
        return Finding(
            "NCCL", problem, "NCCL_DEBUG=INFO ./launch.sh doctor; " + again()
        )
    return Finding("NCCL", "all GPUs add up")


def reached(path: str, problem: str) -> Finding:
    """Whether the trainer's own client of a store gets there."""
    what = f"TensorFlow at {path}"
    if problem:
        return Finding(what, problem, "docs/storage.md; or train with --cache=DIR")
    return Finding(what, "reached")
