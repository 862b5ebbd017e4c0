"""GPUs, their driver and libraries, and what TensorFlow makes of them."""

import glob
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from doctor.finding import Finding
from doctor.host import nearest
from doctor.packages import again
from trainer.devices import gpus as support

QUERY = "name,driver_version,compute_cap,memory.total"
PROBE_S = 180
FIRST_START_S = 45 * 60  # where CUDA first compiles kernels for the GPU
INSTALL = "install NVIDIA's driver and reboot; in a container, start it with --gpus=all"


class Gpu(NamedTuple):
    """One line of nvidia-smi."""

    name: str
    driver: str
    capability: tuple[int, int]
    memory: str


def look() -> Iterator[Finding]:
    """Looks at TensorFlow and the GPUs."""
    gpus, trouble = find_gpus()
    yield graphics(gpus, trouble)
    limit = PROBE_S
    if support.starts_slowly([gpu.capability for gpu in gpus]):
        yield cache()
        limit = FIRST_START_S
        print(
            "       TensorFlow starts; at the first start on such a GPU CUDA compiles "
            f"its kernels, which may take up to {limit // 60} minutes",
            flush=True,
        )
    seen, reason = run_probe(limit)
    yield tensorflow(seen, reason)
    if gpus:
        yield driver(gpus)
        yield from supported(gpus, support.cudnn())
    if gpus and seen:
        yield visible(gpus, seen)
    if seen:
        yield precision(seen)
    if seen.get("reduces") is not None and len(seen.get("capabilities", ())) > 1:
        yield nccl(seen["reduces"])


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
        Gpu(row[0].strip(), row[1].strip(), _capability(row[2]), row[3].strip())
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


def _capability(text: str) -> tuple[int, int]:
    """(0, 0) where the driver does not say."""
    major, minor, *_ = (*_numbers(text.strip()), 0, 0)
    return major, minor


def _numbers(version: str) -> tuple[int, ...]:
    """A version's numbers, as far as it has any."""
    parts = []
    for part in version.split("."):
        if not part.strip().isdigit():
            break
        parts.append(int(part))
    return tuple(parts)


def run_probe(limit: float = PROBE_S) -> tuple[dict[str, Any], str]:
    """What doctor/probe.py tells, and why it didn't within `limit` seconds."""
    command = [sys.executable, "-m", "doctor.probe"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {}, f"did not start in {limit:.0f} s"
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
    says += f": {seen['computes']}" if seen["computes"] else ""
    return Finding("TensorFlow", says, again() if seen["computes"] else "")


def graphics(gpus: Sequence[Gpu], trouble: str) -> Finding:
    """Which GPUs there are."""
    each = ", ".join(f"{gpu.name} ({gpu.memory})" for gpu in gpus)
    says = trouble or each or "none of NVIDIA's: the processor does the work"
    return Finding("GPUs", says, INSTALL if trouble else "")


def driver(gpus: Sequence[Gpu]) -> Finding:
    """Whether the driver is new enough for what TensorFlow has for these GPUs."""
    version = gpus[0].driver
    oldest = max(support.oldest_driver(gpu.capability) for gpu in gpus)
    wanted = ".".join(map(str, oldest))
    if () < _numbers(version)[:2] < oldest:
        newest = max(gpu.capability for gpu in gpus)
        says = f"{version}; compute capability {_dotted(newest)} wants {wanted}"
        return Finding("driver", says, f"install NVIDIA's driver {wanted} or newer")
    return Finding("driver", f"{version}, {wanted} or newer is wanted")


def supported(gpus: Sequence[Gpu], cudnn: tuple[int, ...]) -> Iterator[Finding]:
    """Whether TensorFlow and cuDNN have code for these GPUs."""
    for capability in sorted({gpu.capability for gpu in gpus} - {(0, 0)}):
        if found := support.problem(capability, cudnn):
            yield Finding("GPU support", found.says, found.cure)
        elif says := support.warning(capability):
            yield Finding("GPU support", says, "try --config.train.steps=20 first")
        else:
            says = f"compute capability {_dotted(capability)} is supported"
            yield Finding("GPU support", says)


def cache() -> Finding:
    """Whether CUDA can keep what it compiles; it says nothing where it cannot."""
    folder = support.cache_folder()
    there = nearest(folder)
    if os.access(there, os.W_OK):
        return Finding("CUDA cache", folder)
    says = f"{there} is not writable: kernels would be compiled at every start"
    return Finding(
        "CUDA cache", says, "CUDA_CACHE_PATH=a folder that lasts and is yours"
    )


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


def visible(gpus: Sequence[Gpu], seen: dict[str, Any]) -> Finding:
    """Whether TensorFlow takes all of the GPUs."""
    number = len(seen.get("capabilities", ()))
    says = f"TensorFlow takes {number} of {len(gpus)}"
    if number == len(gpus):
        return Finding("GPUs taken", says)
    if reason := seen.get("unseen"):
        return Finding("GPUs taken", f"{says}: {reason}", again())
    if (hidden := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        cure = f"unset CUDA_VISIBLE_DEVICES (it is {hidden!r}), if all are wanted"
        return Finding("GPUs taken", says, cure)
    return Finding("GPUs taken", says, f"fix what is above, then {again()}")


def precision(seen: dict[str, Any]) -> Finding:
    """What --config.train.precision=auto comes to."""
    each = ", ".join(".".join(map(str, pair)) for pair in seen["capabilities"])
    where = f"compute capability {each}" if each else "on the processor"
    return Finding("precision", f"{seen['precision']}, {where}")


def nccl(problem: str) -> Finding:
    """Whether the GPUs add up gradients."""
    cure = "NCCL_DEBUG=INFO ./launch.sh doctor; " + again()
    return Finding("NCCL", problem or "all GPUs add up", cure if problem else "")
