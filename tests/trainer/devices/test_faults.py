"""A worker that is gone, told from a fault of one's own, by TensorFlow's texts.

"seen" was raised by TensorFlow 2.21 in two of three worker processes when the third was
killed; the others are in its source or its wheel.
"""

import pytest
import tensorflow as tf

from trainer.devices.faults import DeviceFault, WorkerEnded, explained

FRAMES = """Graph execution error: Detected at node while/CollectiveReduceV2 defined at
(most recent call last): File "/home/me/CUDA_ERROR_/trainer/step.py", line 198, in one
"""
REMOTE = "Additional GRPC error information from remote target /job:worker/task:1"
ABORTED = "Collective ops is aborted by: "
LOST = {
    "seen": FRAMES
    + 2 * ABORTED
    + f"recvmsg:Connection reset by peer\n{REMOTE} while calling "
    "/tensorflow.WorkerService/RecvBuf: :UNKNOWN:Error received from peer "
    '{grpc_message:"recvmsg:Connection reset by peer", grpc_status:14}',
    "heartbeat": "The following tasks are unhealthy (stopped sending heartbeats):\n"
    "/job:worker/replica:0/task:1\nThe tasks have crashed. Check the task logs",
    "restarted": "Task /job:worker/replica:0/task:1 unexpectedly tried to connect with "
    "a different incarnation. It has likely restarted.",
    "leader": "Failed to send RPC to coordination service. Either the leader task was "
    "preempted/died/restarted unexpectedly",
    "connect": ABORTED + "failed to connect to all addresses; last error: UNKNOWN",
    "NCCL": "Error invoking NCCL: remote process exited or there was a network error",
    "network": "NCCL: unhandled system error (run with NCCL_DEBUG=INFO for details)",
    "timeout": "Collective has timed out waiting for other workers.",
}
OWN = {
    "address": "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered",
    "wrapped": FRAMES
    + ABORTED
    + f"CUDA_ERROR_ECC_UNCORRECTABLE\n{REMOTE}: Connection reset by peer",
    "cuDNN": "cuDNN launch failure : input shape ([1,64,572,572])",
    "status": "CUDNN_STATUS_EXECUTION_FAILED in conv_ops.cc",
    "algorithm": "No algorithm worked! Error messages: ...",
    "NCCL": "NCCL: unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
}
CLASSES = (
    tf.errors.InternalError,
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.UnknownError,
    tf.errors.CancelledError,
)


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("name", LOST)
def test_a_lost_worker_is_one_line(name, kind):
    said = explained(kind(None, None, LOST[name]), worker=0, workers=2)
    assert isinstance(said, WorkerEnded)
    assert "worker 0 of 2: another worker has ended" in str(said)


@pytest.mark.parametrize("workers", (1, 2))
@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("name", OWN)
def test_a_fault_of_the_gpu_is_told_as_that(name, kind, workers):
    said = explained(kind(None, None, OWN[name]), worker=1, workers=workers)
    assert isinstance(said, DeviceFault) and said.exit_code == 1
    [line] = said.problems
    assert "the GPU failed" in line and "trainer/training/step.py" not in line
    assert ("worker 1 of 2" in line) == (workers == 2)


@pytest.mark.parametrize(
    "text, cure",
    [
        ("failed with 'CUDA_ERROR_UNSUPPORTED_PTX_VERSION'", "newer NVIDIA driver"),
        (
            "cuModuleLoadData failed with 'CUDA_ERROR_INVALID_PTX'",
            "no code for this GPU",
        ),
        ("ptxas exited with non-zero error code 65280", "config.train.xla=off"),
        ("NCCL: unhandled cuda error (run with NCCL_DEBUG=INFO)", "--all_reduce=ring"),
        ("CUDA_ERROR_LAUNCH_FAILED", "doctor"),
    ],
)
def test_what_to_do(text, cure):
    said = explained(tf.errors.InternalError(None, None, text), worker=0, workers=1)
    assert cure in str(said)


@pytest.mark.parametrize(
    "text",
    (
        "OOM when allocating tensor with shape[8,64,568,568] on /device:GPU:0",
        "Out of memory while trying to allocate 1234 bytes.",  # XLA's
        "Out of memory allocating 1234 bytes.",
        "failed to allocate 1.2GiB: CUDA_ERROR_OUT_OF_MEMORY: out of memory",
        "Failed to allocate request for 1.2GiB (1234B) on device ordinal 0",
    ),
)
@pytest.mark.parametrize(
    "kind", (tf.errors.ResourceExhaustedError, tf.errors.InternalError)
)
def test_out_of_memory_names_the_batch(kind, text):
    """A user's mistake, exit code 2: no restart makes it fit."""
    said = explained(kind(None, None, text), worker=0, workers=2)
    assert "out of memory" in str(said) and "config.train.global_batch" in str(said)
    assert said.exit_code == 2


def test_what_is_not_known_stays_what_it_is():
    """With one worker nothing is a lost one; with several not every error is."""
    lost = tf.errors.UnavailableError(None, None, LOST["seen"])
    assert explained(lost, worker=0, workers=1) is None
    for kind in CLASSES:
        other = kind(None, None, FRAMES + "Incompatible shapes: [1,2] vs. [3,4]")
        assert explained(other, worker=0, workers=2) is None
