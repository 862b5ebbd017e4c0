#!/usr/bin/env python3
"""Sends a PNG or JPEG to TensorFlow Serving and shows what it sees.

    python deploy/serving/client.py --image=t000.png --show
    python deploy/serving/client.py --image=t000.png --grpc=localhost:8500

By REST it needs numpy and pillow; by gRPC also grpcio and tensorflow-serving-api. TIFFs
can't travel as they are: save them as PNG, 16 bit is fine. REST sends all probabilities
as text, some 40 bytes a pixel: for large images take gRPC.
"""

import argparse
import base64
import json
import pathlib
import sys
import urllib.error
import urllib.request

import numpy as np
from PIL import Image

COLOURS = np.array([(230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167)])
SIGNATURE = "image_bytes"
MOST_BYTES = 2**30  # of a gRPC answer


def ask_rest(server: str, model: str, image: bytes, timeout: float) -> np.ndarray:
    """Classes of an image, uint8 [H, W], by the REST API.

    https://www.tensorflow.org/tfx/serving/api_rest#predict_api
    """
    encoded = {"b64": base64.b64encode(image).decode()}
    content = {"signature_name": SIGNATURE, "inputs": {SIGNATURE: [encoded]}}
    request = urllib.request.Request(  # noqa: S310  the address is the user's own
        f"{server}/v1/models/{model}:predict",
        json.dumps(content).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:  # noqa: S310  as above
            return np.array(json.load(response)["outputs"]["classes"][0], np.uint8)
    except urllib.error.HTTPError as error:
        sys.exit(f"{server}: {error} {error.read().decode()[:300]}")
    except OSError as error:  # refused, or silent
        sys.exit(f"{server}: {error}; is TensorFlow Serving there?")


def ask_grpc(server: str, model: str, image: bytes, timeout: float) -> np.ndarray:
    """The same by gRPC, which leaves the probabilities where they are."""
    import grpc
    from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest(output_filter=["classes"])
    request.model_spec.name = model
    request.model_spec.signature_name = SIGNATURE
    one = tensor_shape_pb2.TensorShapeProto.Dim(size=1)
    tensor = tensor_pb2.TensorProto(
        dtype=types_pb2.DT_STRING,
        tensor_shape=tensor_shape_pb2.TensorShapeProto(dim=[one]),
        string_val=[image],
    )
    request.inputs[SIGNATURE].CopyFrom(tensor)
    options = [("grpc.max_receive_message_length", MOST_BYTES)]
    with grpc.insecure_channel(server, options) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        try:
            answer = stub.Predict(request, timeout=timeout).outputs["classes"]
        except grpc.RpcError as error:
            sys.exit(f"{server}: {error.code().name}: {error.details()[:300]}")
    height, width = (dim.size for dim in answer.tensor_shape.dim[1:])
    if answer.tensor_content:
        return np.frombuffer(answer.tensor_content, np.uint8).reshape(height, width)
    return np.array(answer.int_val, np.uint8).reshape(height, width)


def overlay(image: Image.Image, classes: np.ndarray) -> Image.Image:
    """The image, stretched to its range, with classes tinted and outlined."""
    if image.mode not in ("L", "I;16", "I"):
        image = image.convert("L" if image.mode in ("1", "LA") else "RGB")
    pixels = np.asarray(image, np.float32)
    low, high = np.percentile(pixels, (0.5, 99.5))
    grey = np.clip((pixels - low) / max(high - low, 1e-6) * 255, 0, 255)
    picture = grey if grey.ndim == 3 else np.repeat(grey[..., None], 3, axis=2)
    picture = picture[..., :3]
    tint = COLOURS[(classes.astype(int) - 1) % len(COLOURS)]
    padded = np.pad(classes, 1, mode="edge")
    neighbours = [
        padded[1:-1, :-2],
        padded[1:-1, 2:],
        padded[:-2, 1:-1],
        padded[2:, 1:-1],
    ]
    edge = np.any([classes != beside for beside in neighbours], axis=0)
    share = np.where(edge, 1.0, 0.3) * (classes > 0)
    mixed = picture * (1 - share[..., None]) + tint * share[..., None]
    return Image.fromarray(mixed.astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", required=True, help="PNG or JPEG, 8 or 16 bit")
    parser.add_argument(
        "--server", default="http://localhost:8501", help="REST address"
    )
    parser.add_argument("--grpc", help="HOST:PORT, to ask by gRPC instead")
    parser.add_argument("--model", default="unet", help="its name on the server")
    parser.add_argument("--output", default="overlay.png", help="the picture to write")
    parser.add_argument("--mask", help="where to write the class numbers, PNG")
    parser.add_argument("--show", action="store_true", help="opens the picture")
    parser.add_argument("--timeout", type=float, default=60, help="s to wait")
    given = parser.parse_args()
    try:
        encoded = pathlib.Path(given.image).read_bytes()
        image = Image.open(given.image)
    except OSError as error:
        sys.exit(f"{given.image}: {error}")
    if given.grpc:
        classes = ask_grpc(given.grpc, given.model, encoded, given.timeout)
    else:
        classes = ask_rest(given.server, given.model, encoded, given.timeout)
    if given.mask:
        Image.fromarray(classes).save(given.mask)
    picture = overlay(image, classes)
    picture.save(given.output)
    shares = np.bincount(classes.ravel()) / classes.size
    named = ", ".join(f"class {k}: {share:.1%}" for k, share in enumerate(shares))
    print(f"{given.output}: {classes.shape[0]} x {classes.shape[1]} px, {named}")
    if given.show:
        picture.show()


if __name__ == "__main__":
    main()
