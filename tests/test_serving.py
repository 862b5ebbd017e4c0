"""The client against a stand-in that speaks TensorFlow Serving's own protocol.

TensorFlow Serving itself can't be had here. The stand-in answers its REST and gRPC
predict API by the messages of tensorflow-serving-api and the model's SignatureDefs.
"""

import base64
import concurrent.futures
import http.server
import json
import pathlib
import re
import subprocess
import sys
import threading
import urllib.request

import grpc
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from preprocess.cli import main
from trainer.main import COMMANDS

ROOT = pathlib.Path(__file__).parent.parent
CLIENT = ROOT / "deploy/serving/client.py"


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


@pytest.fixture(scope="module")
def version(trained, tmp_path_factory):
    output = tmp_path_factory.mktemp("served") / "model"
    given = [f"--workdir={trained}", f"--output={output}"]
    assert main(COMMANDS["export"], given) == 0
    return output / "1"


@pytest.fixture(scope="module")
def servers(version):
    """REST and gRPC addresses."""
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


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "image.png"
    noise = np.random.default_rng(0).integers(0, 65536, (60, 90), np.uint16)
    Image.fromarray(noise).save(path)
    return path


def client(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, CLIENT, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("way", ["rest", "grpc"])
def test_the_client_shows_what_predict_shows(servers, version, picture, tmp_path, way):
    rest, address = servers
    where = f"--server={rest}" if way == "rest" else f"--grpc={address}"
    mask, shown = tmp_path / "mask.png", tmp_path / "overlay.png"
    done = client(f"--image={picture}", where, f"--output={shown}", f"--mask={mask}")
    assert done.returncode == 0, done.stderr
    assert "60 x 90 px, class 0: " in done.stdout
    given = [f"--model={version}", f"--input={picture}", f"--output={tmp_path}/p"]
    assert main(COMMANDS["predict"], given) == 0
    expected = np.asarray(Image.open(tmp_path / "p/image_mask.png"))
    np.testing.assert_array_equal(np.asarray(Image.open(mask)), expected)
    assert np.asarray(Image.open(shown)).shape == (60, 90, 3)


def test_a_refusal_and_a_silence_are_one_line(servers, tmp_path):
    path, output = tmp_path / "image.png", f"--output={tmp_path}/o.png"
    colours = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    Image.fromarray(colours).save(path)
    done = client(f"--image={path}", f"--server={servers[0]}", output)
    assert done.returncode == 1 and "where this model takes 1" in done.stderr
    done = client(f"--image={path}", "--server=http://127.0.0.1:9", output)
    assert done.returncode == 1 and "is TensorFlow Serving there" in done.stderr
    done = client(f"--image={path}", "--grpc=127.0.0.1:9", output, "--timeout=5")
    assert done.returncode == 1 and "127.0.0.1:9: UNAVAILABLE" in done.stderr
    done = client(f"--image={tmp_path}/none.png", f"--server={servers[0]}", output)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("o*"))


def test_raw_intensities_travel_as_numbers_too(servers, version):
    """`serving_default` by REST, as the README shows it."""
    image = np.random.default_rng(0).normal(100, 20, (1, 20, 30, 1)).astype(np.float32)
    body = json.dumps({"inputs": {"image": image.tolist()}}).encode()
    url = f"{servers[0]}/v1/models/unet:predict"
    with urllib.request.urlopen(urllib.request.Request(url, body)) as answer:
        outputs = json.load(answer)["outputs"]
    model = tf.saved_model.load(str(version))
    expected = model.signatures["serving_default"](image=tf.constant(image))
    found = outputs["probabilities"]
    np.testing.assert_allclose(found, expected["probabilities"], atol=1e-6)


def test_the_compose_file_names_what_is_there():
    text = (ROOT / "deploy/serving/compose.yaml").read_text()
    for said in ("MODEL_NAME: unet", "/models/unet:ro", "8500:8500", "8501:8501"):
        assert said in text
    assert 'default="unet"' in CLIENT.read_text()
