"""PNG of pixels as they are, for shards and for what is written."""

import cv2
import numpy as np


def encode_png(image: np.ndarray, *, flat: bool = False) -> bytes:
    """PNG of uint8 or uint16 [H, W] or [H, W, 1, 3 or 4 (RGB, alpha)].

    Args:
      flat: areas of one value, such as labels: they pack better as they are than as
        the differences to their neighbours.
    """
    options = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE] if flat else []
    ok, encoded = cv2.imencode(".png", _swap_red_and_blue(image), options)
    if not ok:
        raise ValueError(f"PNG cannot hold {image.dtype} {image.shape}")
    return encoded.tobytes()


def decode_png(encoded: bytes) -> np.ndarray:
    """A PNG's (or JPEG's) pixels as stored: [H, W] or [H, W, 3 or 4].

    Raises:
      ValueError: not a whole file of these formats.
    """
    buffer = np.frombuffer(encoded, np.uint8)
    image = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED) if buffer.size else None
    if image is None:
        raise ValueError("not a whole PNG or JPEG")
    return _swap_red_and_blue(image)


def _swap_red_and_blue(image: np.ndarray) -> np.ndarray:
    """RGB(A) to OpenCV's BGR(A) and back; one channel as it is."""
    if image.ndim == 2 or image.shape[2] == 1:
        return image
    return np.ascontiguousarray(image[..., [2, 1, 0, *range(3, image.shape[2])]])
