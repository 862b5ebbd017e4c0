"""A stand-in that speaks TensorFlow Serving's own protocol.

TensorFlow Serving itself can't be had here. This answers its REST and gRPC predict API
by the messages of tensorflow-serving-api and the model's SignatureDefs.
"""

import base64
import concurrent.futures
import contextlib
import http.server
import json
import pathlib
import re
import threading
from collections.abc import Iterator

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


class StandIn(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answers as tensorflow_model_server does, of one version of one model."""

    def __init__(self, version: pathlib.Path):
        self.model = tf.saved_model.load(str(version))
        saved = saved_model_pb2.SavedModel()
        saved.ParseFromString((version / "saved_model.pb").read_bytes())
        self.definitions = saved.meta_graphs[0].signature_def

    def run(self, name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One signature; inputs must be named and typed as its SignatureDef says."""
        definition = self.definitions[name]
        assert definition.method_name == "tensorflow/serving/predict"
        assert set(inputs) == set(definition.inputs)
        tensors = {
            key: tf.constant(value, tf.dtypes.as_dtype(definition.inputs[key].dtype))
            for key, value in inputs.items()
        }
        result = self.model.signatures[name](**tensors)
        assert set(result) == set(definition.outputs)
        return {key: value.numpy() for key, value in result.items()}

    def Predict(self, request, context):
        given = {k: tf.make_ndarray(v) for k, v in request.inputs.items()}
        name = request.model_spec.signature_name or "serving_default"
        try:
            made = self.run(name, given)
        except tf.errors.InvalidArgumentError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message[:500])
        answer = predict_pb2.PredictResponse(model_spec=request.model_spec)
        for key in request.output_filter or made:
            answer.outputs[key].CopyFrom(tf.make_tensor_proto(made[key]))
        return answer

    def rest(self, body: dict) -> dict:
        """https://www.tensorflow.org/tfx/serving/api_rest#predict_api, in columns."""

        def decode(value):
            if isinstance(value, dict):
                assert set(value) == {"b64"}
                return base64.b64decode(value["b64"])
            return [decode(v) for v in value] if isinstance(value, list) else value

        given = {k: np.array(decode(v)) for k, v in body["inputs"].items()}
        name = body.get("signature_name", "serving_default")
        made = self.run(name, given)
        return {"outputs": {key: value.tolist() for key, value in made.items()}}


@contextlib.contextmanager
def serving(version: pathlib.Path) -> Iterator[tuple[str, str]]:
    """REST and gRPC addresses of one that serves this version."""
    standin = StandIn(version)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            assert re.fullmatch(r"/v1/models/unet:predict", self.path)
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                status, answer = 200, standin.rest(body)
            except tf.errors.InvalidArgumentError as error:
                status, answer = 400, {"error": error.message[:500]}
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    rest = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    pool = concurrent.futures.ThreadPoolExecutor(2)
    server = grpc.server(pool)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(standin, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"http://127.0.0.1:{rest.server_address[1]}", f"127.0.0.1:{port}"
    rest.shutdown()
    rest.server_close()
    server.stop(None).wait()
    pool.shutdown()
