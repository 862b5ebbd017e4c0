"""The client against a stand-in for TensorFlow Serving."""

import json
import subprocess
import urllib.request

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.cloud.serving import serving
from tests.commands import PYTHON, ROOT, process, run

CLIENT = ROOT / "deploy/serving/client.py"


@pytest.fixture(scope="module")
def version(models):
    return models / "2"


@pytest.fixture(scope="module")
def servers(version):
    with serving(version) as addresses:
        yield addresses


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "image.png"
    noise = np.random.default_rng(0).integers(0, 65536, (60, 90), np.uint16)
    Image.fromarray(noise).save(path)
    return path


def client(*arguments) -> subprocess.CompletedProcess:
    return process(PYTHON, CLIENT, *arguments, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["rest", "grpc"])
def test_the_client_shows_what_predict_shows(servers, version, picture, tmp_path, way):
    rest, address = servers
    where = f"--server={rest}" if way == "rest" else f"--grpc={address}"
    mask, shown = tmp_path / "mask.png", tmp_path / "overlay.png"
    done = client(f"--image={picture}", where, f"--output={shown}", f"--mask={mask}")
    assert done.returncode == 0, done.stderr
    assert "60 x 90 px, class 0: " in done.stdout
    assert run("predict", model=version, input=picture, output=tmp_path / "p") == 0
    expected = np.asarray(Image.open(tmp_path / "p/image_mask.png"))
    np.testing.assert_array_equal(np.asarray(Image.open(mask)), expected)
    assert np.asarray(Image.open(shown)).shape == (60, 90, 3)


@pytest.mark.slow
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


@pytest.mark.slow
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
