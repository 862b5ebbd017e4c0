"""What TensorFlow's errors mean: a worker that is gone, or a fault of this machine.

Both come as InternalError, UnavailableError or others, so only their texts tell them
apart. A fault of one's own may be wrapped as an aborted collective, so it is looked for
first; what nothing here knows stays what it is.
"""

import re

import tensorflow as tf

from unet_tfrecords.command.errors import UserError

FRAME = re.compile(r'File "[^"]*", line \d+, in \S+')
MOST_SHOWN = 300  # characters of TensorFlow's own words


class WorkerEnded(UserError):
    """Another worker is gone: all of them can be started again, and go on."""


class DeviceFault(UserError):
    """A GPU, its driver or a library of it has failed."""

    exit_code = 1  # not a user's mistake: a scheduler counts it, and may try again


DOCTOR = "./launch.sh doctor looks at GPUs, driver and libraries"
# Texts of TensorFlow's or CUDA's, and what to do; the first that is found counts.
FAULTS = {
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION|Unsupported .version": (
        "install a newer NVIDIA driver, see ./launch.sh doctor"
    ),
    "CUDA_ERROR_INVALID_PTX|CUDA_ERROR_NO_BINARY_FOR_GPU|not support target": (
        "this TensorFlow has no code for this GPU, see ./launch.sh doctor"
    ),
    "ptxas exited with|No PTX compilation provider|libdevice": (
        "try --config.train.xla=off in another --workdir; " + DOCTOR
    ),
    "unhandled cuda error": "--all_reduce=ring does without NCCL",
    "CUDA_ERROR_|CUDA error|CUDNN_STATUS|cuDNN launch failure|CUBLAS_STATUS|"
    "Blas \\w+ launch failed|No algorithm worked|Autotuning failed|"
    "DNN library initialization failed|Could not synchronize CUDA stream": DOCTOR,
}
# TensorFlow's words, XLA's and CUDA's.
TOO_LITTLE_MEMORY = re.compile(
    "OOM|[Oo]ut of memory|OUT_OF_MEMORY|ran out of memory|[Ff]ailed to allocate request"
)
LOST_WORKER = re.compile(
    # The coordination service, which hears each worker's heartbeat.
    "stopped sending heartbeats|heartbeat timeout|Heartbeat: Incarnation ID mismatch|"
    "coordination  ?leader .* has restarted|with a different incarnation|"
    "incarnation doesn't match|Failed to send RPC to coordination service|"
    "Shutdown barrier has failed|Agent must be in CONNECTED state|"
    "cluster check alive failed|"
    # Connections between workers.
    "Socket closed|[Cc]onnection reset|[Cc]onnection refused|Broken pipe|"
    "failed to connect to all addresses|GOAWAY received|Keepalive timeout|"
    # Sums that not all workers came to.
    "Collective has timed out|remote process exited or there was a network error|"
    "unhandled system error"
)


def explained(
    error: tf.errors.OpError, *, worker: int, workers: int
) -> UserError | None:
    """An error in a line or two; None for what is not known here.

    Args:
      error: TensorFlow's.
      worker: which worker this is.
      workers: of how many.
    """
    # Without the Python frames, whose paths could hold any of the words below.
    text = " ".join(FRAME.sub("", error.message).split())
    if TOO_LITTLE_MEMORY.search(text):
        return UserError(
            f"out of memory: {text[:MOST_SHOWN]}; give a smaller "
            "config.train.tiles_per_replica or config.train.global_batch, or "
            "config.train.accumulate=2 or more, in another --workdir"
        )
    for pattern, cure in FAULTS.items():
        if found := re.search(pattern, text):
            start = max(0, found.start() - MOST_SHOWN // 2)
            shown = text[start : start + MOST_SHOWN]
            whose = f"worker {worker} of {workers}: " if workers > 1 else ""
            return DeviceFault(f"{whose}the GPU failed: {shown}; {cure}")
    if workers > 1 and LOST_WORKER.search(text):
        return WorkerEnded(
            f"worker {worker} of {workers}: another worker has ended, and its log says "
            "why; start all of them again to go on"
        )
    return None
