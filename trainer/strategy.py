"""Devices, distribution and precision."""

import tensorflow as tf


def make_strategy() -> tf.distribute.Strategy:
    """MirroredStrategy over all GPUs of the host, or the one device there is."""
    gpus = tf.config.list_physical_devices("GPU")
    if len(gpus) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.OneDeviceStrategy("/gpu:0" if gpus else "/cpu:0")


def resolve_precision(precision: str) -> str:
    """The Keras dtype policy for a config's precision.

    auto: mixed_bfloat16 where the GPU computes in it (capability 8 and up),
    mixed_float16 on 7.x, float32 elsewhere. A processor without bf16 is six times
    slower with it.

    Raises:
      ValueError: an unknown name.
    """
    known = ("float32", "mixed_bfloat16", "mixed_float16")
    if precision in known:
        return precision
    if precision != "auto":
        raise ValueError(
            f"config.train.precision={precision!r} is none of auto, {', '.join(known)}"
        )
    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    major = min((d.get("compute_capability", (0,))[0] for d in details), default=0)
    if major >= 8:
        return "mixed_bfloat16"
    return "mixed_float16" if major == 7 else "float32"


def describe(strategy: tf.distribute.Strategy, precision: str) -> str:
    """One line for the log: how many devices of which kind, in which precision."""
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    replicas = strategy.num_replicas_in_sync
    return f"{replicas} {kind} replica{'s' if replicas > 1 else ''}, {precision}"
