"""Requests that TensorFlow Serving replays before it lets a new version answer.

https://www.tensorflow.org/tfx/serving/saved_model_warmup: the file
assets.extra/tf_serving_warmup_requests holds TFRecords of
tensorflow.serving.PredictionLog. Its package, tensorflow-serving-api, would bring a
second TensorFlow beside tensorflow-cpu, so the few nested fields are written here; a
test reads them by the package.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from trainer.export.signatures import channels_in_file
from unet_tfrecords.dataset.images.png import encode_png
from unet_tfrecords.dataset.records import frame_record


def warmup_records(
    height: int,
    width: int,
    channels: int,
    selected: Sequence[int] = (),
    images: int = 1,
) -> bytes:
    """One request to each signature for whole images, on noise of a size in px."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, channels), np.uint8)
    requests = [("serving_default", "image", image[None].astype(np.float32))]
    if in_file := channels_in_file(channels, selected, images):
        encoded = encode_png(rng.integers(0, 256, (height, width, in_file), np.uint8))
        requests.append(("image_bytes", "image_bytes", np.array([encoded])))
    return b"".join(frame_record(prediction_log(*request)) for request in requests)


def prediction_log(signature: str, name: str, value: np.ndarray) -> bytes:
    """A PredictionLog of one PredictRequest with one input."""
    tensor = tf.make_tensor_proto(value).SerializeToString()
    model_spec = _field(3, signature.encode())
    entry = _field(1, name.encode()) + _field(2, tensor)  # of the map `inputs`
    request = _field(1, model_spec) + _field(2, entry)
    return _field(6, _field(1, request))  # PredictionLog.predict_log.request


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protocol buffer, its number below 16."""
    length, encoded = len(content), bytearray([number << 3 | 2])
    while length > 127:
        encoded.append(length & 127 | 128)
        length >>= 7
    encoded.append(length)
    return bytes(encoded) + content
