"""An exported model by clients that share no code with the project."""

import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.commands import process, run
from tests.engines.clusters import FETCHED

pytestmark = pytest.mark.slow

CLIENTS = pathlib.Path(__file__).parent / "clients"
TILE = (76, 76, 1)


@pytest.fixture(scope="module")
def model(trained, tmp_path_factory):
    """A version of a trained model, with ONNX."""
    output = tmp_path_factory.mktemp("exported") / "model"
    assert run("export", "--onnx", "--tile=76", workdir=trained, output=output) == 0
    return output / "1"


@pytest.fixture(scope="module")
def ours(model):
    """What TensorFlow of here says of the image and of the tile."""
    signatures = tf.saved_model.load(str(model)).signatures

    def probabilities(name: str, **inputs: np.ndarray) -> np.ndarray:
        given = {key: tf.constant(value[None]) for key, value in inputs.items()}
        return signatures[name](**given)["probabilities"].numpy()

    return probabilities


@pytest.fixture(scope="module")
def image():
    """float32 [90, 70, 1]: more than a tile."""
    return np.random.default_rng(0).integers(0, 256, (90, 70, 1)).astype(np.float32)


def fetched(place: str) -> pathlib.Path:
    if not (path := FETCHED / place).exists():
        pytest.skip(f"no {path}; .ci/engines fetches it")
    return path


def answer(command: list, pixels: np.ndarray, folder: pathlib.Path) -> np.ndarray:
    """Runs a client: PROGRAM ... IMAGE OUTPUT HEIGHT WIDTH CHANNELS."""
    pixels.tofile(folder / "pixels")
    places = folder / "pixels", folder / "answer"
    done = process(*command, *places, *pixels.shape)
    assert done.returncode == 0, done.stderr
    return np.fromfile(folder / "answer", np.float32)


@pytest.mark.parametrize("version", ["2.17", "2.20"])
def test_other_tensorflows_load_it(model, ours, image, tmp_path, version):
    """The newest Serving is 2.20; users of tensorflow-io have 2.17."""
    python = fetched(f"tensorflow-{version}/whole").parent / "bin/python"
    client = [python, CLIENTS / "tensorflow_alone.py", model]
    expected = ours("serving_default", image=image)
    theirs = answer(client, image, tmp_path).reshape(expected.shape)
    np.testing.assert_allclose(theirs, expected, atol=1e-5)


def test_java_loads_it(model, ours, image, tmp_path):
    jars = fetched("java/whole").parent / "jars"
    if not shutil.which("java"):
        pytest.skip("no Java")
    client = ["java", "-cp", f"{jars}/*", CLIENTS / "Client.java", model]
    expected = ours("serving_default", image=image)
    theirs = answer(client, image, tmp_path).reshape(expected.shape)
    np.testing.assert_allclose(theirs, expected, atol=1e-5)


def test_node_runs_its_onnx_file(model, ours, image, tmp_path):
    modules = fetched("node/whole-onnxruntime-web").parent / "node_modules"
    library = modules / "onnxruntime-web/dist/ort.node.min.mjs"
    if not shutil.which("node"):
        pytest.skip("no Node")
    tile = np.resize(image, TILE)
    client = ["node", CLIENTS / "onnx.mjs", library, model / "assets.extra/tile.onnx"]
    mean, std = (np.array([value], np.float32) for value in (100, 50))
    expected = ours("tile", tile=tile, mean=mean, std=std)
    theirs = answer(client, tile, tmp_path).reshape(expected.shape)
    np.testing.assert_allclose(theirs, expected, atol=1e-5)
