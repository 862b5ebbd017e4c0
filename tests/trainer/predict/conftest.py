"""What they share."""

import shutil

import pytest
import tensorflow as tf

from tests.commands import run

collect_ignore = ["opened_by_others.py"]  # other Pythons run it


@pytest.fixture(scope="module")
def model(trained, tmp_path_factory):
    output = tmp_path_factory.mktemp("exported") / "model"
    given = "--onnx", "--tile=108"
    assert run("export", *given, workdir=trained, output=output) == 0
    return output


@pytest.fixture
def images(cells, tmp_path):
    """A folder of eight frames t000.tif to t007.tif, 128 px."""
    folder = tmp_path / "in"
    shutil.copytree(cells / "01", folder)
    return folder


@pytest.fixture
def predict(model, tmp_path):
    def predicted(source, *more, output="out"):
        where = {"input": source, "output": tmp_path / output}
        return run("predict", *more, model=model, **where)

    return predicted


@pytest.fixture
def whole(model):
    """The SavedModel itself, on one array of intensities [H, W]."""
    loaded = tf.saved_model.load(str(model / "1"))
    segment = loaded.signatures["serving_default"]

    def segmented(image):
        batch = tf.constant(image[None, ..., None], tf.float32)
        result = segment(image=batch)
        return {name: value[0].numpy() for name, value in result.items()}

    segmented.keep = loaded
    return segmented


NOTES = {"predict.json"}  # in every folder of outputs
