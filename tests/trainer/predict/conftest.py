"""What they share."""

import shutil

import pytest
import tensorflow as tf

from trainer.main import COMMANDS
from unet_tfrecords.command.cli import main


@pytest.fixture(scope="module")
def model(trained, tmp_path_factory):
    output = tmp_path_factory.mktemp("exported") / "model"
    given = [f"--workdir={trained}", f"--output={output}", "--onnx", "--tile=108"]
    assert main(COMMANDS["export"], given) == 0
    return output


@pytest.fixture
def images(cells, tmp_path):
    """A folder of eight frames t000.tif to t007.tif, 128 px."""
    folder = tmp_path / "in"
    shutil.copytree(cells / "01", folder)
    return folder


@pytest.fixture
def predict(model, tmp_path):
    def run(source, *more, output="out"):
        given = f"--model={model}", f"--input={source}", f"--output={tmp_path / output}"
        return main(COMMANDS["predict"], [*given, *more])

    return run


@pytest.fixture
def whole(model):
    """The SavedModel itself, on one array of intensities [H, W]."""
    loaded = tf.saved_model.load(str(model / "1"))
    segment = loaded.signatures["serving_default"]

    def run(image):
        batch = tf.constant(image[None, ..., None], tf.float32)
        result = segment(image=batch)
        return {name: value[0].numpy() for name, value in result.items()}

    run.keep = loaded
    return run


NOTES = {"predict.json"}  # in every folder of outputs
