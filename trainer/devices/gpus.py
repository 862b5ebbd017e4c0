"""What NVIDIA's GPUs need and can do with the locked TensorFlow, by compute capability.

TensorFlow 2.21's CUDA wheel (CUDA 12.5) has machine code for 6.0, 7.0, 8.0 and 8.9,
which also runs on 7.5 and 8.6. 1149 of 1438 kernels have no machine code for 9.0
(H100, H200), and all have none for newer GPUs: the driver compiles their PTX when they
are first used. That takes time, and a driver as new as the PTX.
"""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from unet_tfrecords.command.installed import version_of

Capability = tuple[int, int]

OLDEST_DRIVER = (525, 60)  # of Linux, for machine code of CUDA 12
PTX_DRIVER = (555, 42)  # for the PTX of CUDA 12.5
BLACKWELL_DRIVER = (570, 86)
FIRST_KERNELS: Capability = (6, 0)
FIRST_PTX: Capability = (9, 0)
BLACKWELL: Capability = (10, 0)
# cuDNN 9.11 and later have nothing for GPUs older than Turing.
TURING: Capability = (7, 5)
FIRST_CUDNN_FROM_TURING = (9, 11)
CACHE_BYTES = 4 * 2**30  # CUDA's largest: a smaller cache forgets, and compiles again


class Problem(NamedTuple):
    """Why a GPU cannot be used, and what to do."""

    says: str
    cure: str


def precision_for(capabilities: Sequence[Capability]) -> str:
    """The Keras dtype policy for GPUs of these capabilities; the oldest decides.

    >>> precision_for([(9, 0)]), precision_for([(7, 5), (8, 0)]), precision_for([])
    ('mixed_bfloat16', 'mixed_float16', 'float32')
    """
    oldest = min((major for major, _ in capabilities), default=0)
    if oldest >= 8:
        return "mixed_bfloat16"
    return "mixed_float16" if oldest == 7 else "float32"


def compiles_well(capabilities: Sequence[Capability]) -> bool:
    """Whether XLA is to compile the step: not on Blackwell, which this XLA precedes."""
    return all(capability < BLACKWELL for capability in capabilities)


def oldest_driver(capability: Capability) -> tuple[int, int]:
    """The oldest Linux driver that serves a GPU.

    >>> oldest_driver((8, 0)), oldest_driver((9, 0))
    ((525, 60), (555, 42))
    """
    if capability >= BLACKWELL:
        return BLACKWELL_DRIVER
    return PTX_DRIVER if capability >= FIRST_PTX else OLDEST_DRIVER


def starts_slowly(capabilities: Sequence[Capability]) -> bool:
    """Whether kernels are compiled from PTX at the first start."""
    return any(capability >= FIRST_PTX for capability in capabilities)


def problem(capability: Capability, cudnn: tuple[int, ...] = ()) -> Problem | None:
    """Why a GPU cannot be used.

    Args:
      capability: its compute capability.
      cudnn: the version that is installed; () where it is not known.

    >>> problem((7, 0), (9, 28)).cure
    "pip install 'nvidia-cudnn-cu12>=9.3,<9.11'"
    """
    name = ".".join(map(str, capability))
    if capability < FIRST_KERNELS:
        return Problem(
            f"compute capability {name}: TensorFlow has no kernels below 6.0",
            "CUDA_VISIBLE_DEVICES=the newer GPUs, or UNET_FLAVOUR=cpu",
        )
    if capability < TURING and cudnn >= FIRST_CUDNN_FROM_TURING:
        version = ".".join(map(str, cudnn))
        return Problem(
            f"compute capability {name}: cuDNN {version} supports 7.5 and newer",
            "pip install 'nvidia-cudnn-cu12>=9.3,<9.11'",
        )
    return None


def cudnn() -> tuple[int, ...]:
    """The version of cuDNN that pip has installed; () where it did not."""
    parts = version_of("nvidia-cudnn-cu12").split(".")[:2]
    return tuple(int(part) for part in parts if part.isdigit())


def warning(capability: Capability) -> str:
    """What is not sure of a GPU; "" where nothing is known against it."""
    if capability < BLACKWELL:
        return ""
    name = ".".join(map(str, capability))
    return (
        f"compute capability {name} (Blackwell): TensorFlow 2.21 has no machine code "
        "for it and does not support it yet (tensorflow#97387); if it fails with "
        "CUDA_ERROR_INVALID_PTX, use NVIDIA's TensorFlow container, 25.03 or newer"
    )


def set_environment(environment: dict[str, str] | os._Environ = os.environ) -> None:
    """Sets what CUDA and TensorFlow read at their start, unless it is set already.

    A cache large enough to keep every kernel that was compiled, and threads of its own
    for each GPU, so that decoding tiles does not delay what a GPU is to do next.
    """
    environment.setdefault("CUDA_CACHE_MAXSIZE", str(CACHE_BYTES))
    environment.setdefault("TF_GPU_THREAD_MODE", "gpu_private")


def cache_folder(environment: Mapping[str, str] = os.environ) -> str:
    """Where CUDA keeps what it has compiled."""
    default = os.path.join(os.path.expanduser("~"), ".nv", "ComputeCache")
    return environment.get("CUDA_CACHE_PATH") or default
