"""What TensorFlow sees and can do here, as JSON: run in a process of its own.

A TensorFlow that doesn't fit its libraries or processor can end its process.
"""

import json
import os
from typing import Any


def probe() -> dict[str, Any]:
    """Versions, devices, whether they compute."""
    import keras
    import tensorflow as tf

    from trainer.devices import gpus as support
    from trainer.devices.strategy import resolve_precision, why_unseen

    support.set_environment()

    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    build = tf.sysconfig.get_build_info()
    return {
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "cuda": build.get("cuda_version", "") if build.get("is_cuda_build") else "",
        "capabilities": [d.get("compute_capability", (0, 0)) for d in details],
        "precision": resolve_precision("auto"),
        "unseen": "" if gpus else why_unseen(),
        "computes": _tried(lambda: _convolve(tf, len(gpus))),
        "reduces": _tried(lambda: reduce(tf)) if len(gpus) > 1 else "",
    }


def _tried(act) -> str:
    """What went wrong; "" for nothing."""
    try:
        act()
    except Exception as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    return ""


def _convolve(tf, gpus: int) -> None:
    """A convolution on each device against what it must be."""
    for name in [f"/gpu:{index}" for index in range(gpus)] or ["/cpu:0"]:
        with tf.device(name):
            ones = tf.ones([1, 8, 8, 4])
            sums = tf.nn.conv2d(ones, tf.ones([3, 3, 4, 2]), 1, "VALID")
            if not bool(tf.reduce_all(sums == 36.0)):
                raise ArithmeticError(f"{name} computes wrong sums")


def reduce(tf, names: list[str] | None = None) -> None:
    """A sum over all GPUs that all of them get, by NCCL as in training.

    `strategy.reduce` to one device would copy and add, without NCCL.
    """
    devices = tf.distribute.MirroredStrategy(names)

    def summed():
        replica = tf.distribute.get_replica_context()
        number = tf.cast(replica.replica_id_in_sync_group + 1, tf.float32)
        return replica.all_reduce(
            tf.distribute.ReduceOp.SUM, tf.fill([1024], 1.0) * number
        )

    results = tf.function(lambda: devices.run(summed))()
    count = devices.num_replicas_in_sync
    for result in devices.experimental_local_results(results):
        if not bool(tf.reduce_all(result == count * (count + 1) / 2)):
            raise ArithmeticError("the GPUs' sum is wrong")


if __name__ == "__main__":
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    print(json.dumps(probe()))
