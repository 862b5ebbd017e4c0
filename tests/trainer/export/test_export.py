"""The artefact: what its signatures give, what it carries, what tiles cost."""

import hashlib
import io
import itertools
import json

import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from PIL import Image, ImageOps
from tensorflow_serving.apis import prediction_log_pb2

from configs import base, synthetic
from tests.commands import refused, run
from trainer.export import artefact_layout, onnx, tile_memory
from trainer.export.signatures import decode_image, tile_function
from trainer.inference.segmenter import Segmenter
from trainer.network.dropout import TileSeeds
from trainer.network.layers import freeze
from trainer.network.unet import build_model
from trainer.predict import runtimes
from unet_tfrecords.command.errors import UserError
from unet_tfrecords.dataset import dataset_info, shards
from unet_tfrecords.dataset.data_settings import check_data_config
from unet_tfrecords.dataset.images.formats import read_image
from unet_tfrecords.dataset.images.pages import Page
from unet_tfrecords.dataset.images.png import encode_png
from unet_tfrecords.dataset.records import read_records


@pytest.fixture(scope="module")
def version(trained, tmp_path_factory):
    """A version of a trained model, with ONNX, two tiles at once, small tiles."""
    output = tmp_path_factory.mktemp("exported") / "model"
    given = "--onnx", "--tile=76", "--tiles_per_step=2"
    assert run("export", *given, workdir=trained, output=output) == 0
    return output / "1"


@pytest.fixture(scope="module")
def model(version):
    return tf.saved_model.load(str(version))


@pytest.fixture(scope="module")
def image():
    """An image of noise, uint8 [70, 50, 1]."""
    return np.random.default_rng(0).integers(0, 256, (70, 50, 1), np.uint8)


@pytest.mark.slow
def test_every_signature_gives_float32_probabilities_and_classes(model, image):
    names = "serving_default image_tta image_bytes tile tf_example"
    assert set(model.signatures) == set(names.split())
    for signature in model.signatures.values():
        outputs = signature.structured_outputs
        assert set(outputs) == {"probabilities", "classes"}
        assert outputs["probabilities"].dtype == tf.float32
        assert outputs["classes"].dtype == tf.uint8


def encoded_jpeg(image):
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0]).save(buffer, "jpeg", quality=90)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["png", "png16", "jpeg"])
def test_image_bytes_are_read_as_predict_reads_them(model, image, tmp_path, kind):
    encoded = {
        "png": encode_png(image),
        "png16": encode_png(image.astype(np.uint16) * 250 + 7),
        "jpeg": encoded_jpeg(image),
    }[kind]
    path = tmp_path / f"image.{kind.rstrip('16')}"
    path.write_bytes(encoded)
    read = read_image(Page(str(path)), 1).astype(np.float32)
    expected = model.signatures["serving_default"](image=tf.constant(read[None]))
    found = model.signatures["image_bytes"](image_bytes=tf.constant([encoded] * 2))
    for result in found["probabilities"].numpy():
        np.testing.assert_allclose(result, expected["probabilities"][0], atol=1e-5)


@pytest.mark.parametrize(
    "channels, mode",
    [
        (1, "L"),
        (1, "grey as RGB"),
        (1, "LA"),
        (1, "I;16"),
        (1, "1"),
        (3, "RGB"),
        (3, "RGBA"),
        (3, "P"),
        (3, "L"),
        (4, "RGBA"),
        ((2,), "RGB"),
        ((2, 0), "RGBA"),
        ((3, 1), "RGBA"),
    ],
)
def test_decoding_is_that_of_read_image(tmp_path, channels, mode):
    selected = channels if isinstance(channels, tuple) else ()
    channels = len(selected) or channels
    rng = np.random.default_rng(1)
    grey = Image.fromarray(rng.integers(0, 256, (20, 30), np.uint8))
    rgba = Image.fromarray(rng.integers(0, 256, (20, 30, 4), np.uint8))
    if mode == "grey as RGB":
        picture = Image.merge("RGB", [grey] * 3)
    elif mode == "I;16":
        deep = rng.integers(0, 65536, (20, 30), np.uint16)
        picture = Image.fromarray(deep)
    else:
        picture = (grey if mode in ("L", "LA", "1") else rgba).convert(mode)
    path = tmp_path / "image.png"
    picture.save(path)
    expected = read_image(Page(str(path)), channels, selected=selected)
    encoded = tf.constant(path.read_bytes())
    found = tf.function(decode_image)(encoded, channels, selected)
    np.testing.assert_array_equal(found, expected.astype(np.float32))


@pytest.mark.parametrize("kind", ["png", "jpeg"])
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_the_orientation_tag_is_applied(tmp_path, kind, byte_order):
    """As Pillow turns each of the eight."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    decode = tf.function(decode_image)
    path = tmp_path / f"image.{kind}"
    for orientation in range(9):
        exif = Image.Exif()
        exif.endian = byte_order
        if orientation:
            exif[0x010E], exif[0x0112] = "a description", orientation
        Image.fromarray(pixels).save(path, exif=exif)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(path)))
        found = decode(tf.constant(path.read_bytes()), 3)
        np.testing.assert_allclose(found, expected, atol=3 * (kind == "jpeg"))


def test_what_has_other_channels_or_is_no_image_is_refused():
    colours = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    decode = tf.function(decode_image)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="where this model takes 1"
    ):
        decode(tf.constant(encode_png(colours)), 1)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="where this model takes 4"
    ):
        decode(tf.constant(encode_png(colours)), 4)
    with pytest.raises(tf.errors.InvalidArgumentError, match="takes channel 3"):
        decode(tf.constant(encode_png(colours)), 1, (3,))
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(tf.constant(b"GIF89a"), 1)


def test_records_and_tiles_and_whole_images_agree(model, shards_folder):
    """The same pixels by three signatures: our record, its tile, and a whole image."""
    info = dataset_info.read_info(shards_folder)
    geometry = info.geometry
    path = shards.shard_files(shards_folder)[0]
    with open(path, "rb") as file:
        records = list(read_records(file))[:3]
    parsed = list(itertools.islice(shards.read_tiles(path, info.geometry), 3))
    by_record = model.signatures["tf_example"](examples=tf.constant(records))
    by_tile = model.signatures["tile"](
        tile=tf.constant(np.stack([p.image for p in parsed]), tf.float32),
        mean=tf.constant(np.stack([p.mean for p in parsed])),
        std=tf.constant(np.stack([p.std for p in parsed])),
    )
    assert by_record["classes"].shape == (3, *[geometry.output_size] * 2)
    np.testing.assert_allclose(
        by_record["probabilities"], by_tile["probabilities"], atol=1e-6
    )


def test_a_tile_by_hand_is_a_part_of_the_whole_image(model, image):
    whole = model.signatures["serving_default"](
        image=tf.constant(image[None], tf.float32)
    )
    # Depth 2 loses 20 px on each side; origins are multiples of 4.
    tile = image[:64, :48].astype(np.float32)
    part = model.signatures["tile"](
        tile=tf.constant(tile[None]),
        mean=tf.constant(image.mean((0, 1), dtype=np.float64)[None], tf.float32),
        std=tf.constant(image.std((0, 1), dtype=np.float64)[None], tf.float32),
    )
    np.testing.assert_allclose(
        part["probabilities"][0], whole["probabilities"][0, 20:44, 20:28], atol=1e-5
    )


def test_an_illegal_tile_is_refused(model):
    one = tf.ones([1, 1])
    with pytest.raises(tf.errors.InvalidArgumentError, match="edge is not legal"):
        model.signatures["tile"](tile=tf.zeros([1, 62, 60, 1]), mean=one, std=one)


def test_what_the_artefact_carries(version, trained):
    extra = version / artefact_layout.EXTRA
    about = json.loads((extra / artefact_layout.ABOUT).read_text())
    assert about["class_names"] == ["background", "cell"]
    assert (about["tile"], about["tiles_per_step"]) == (76, 2)
    info = (trained / dataset_info.INFO_NAME).read_bytes()
    assert about["data"]["dataset_info_sha256"] == hashlib.sha256(info).hexdigest()
    config = json.loads((extra / artefact_layout.CONFIG).read_text())
    assert config["model"]["depth"] == 2
    lines = [
        json.loads(x) for x in (trained / "metrics.jsonl").read_text().splitlines()
    ]
    [line] = [x for x in lines if x["step"] == about["step"] and "val_mean_iou" in x]
    assert about["scores"]["validation"]["mean_iou"] == line["val_mean_iou"]
    card = (extra / artefact_layout.CARD).read_text()
    assert f"{line['val_mean_iou']:.4f}" in card and "`image_bytes`" in card


def test_warm_up_requests_are_servings_own_and_run(version, model):
    with open(version / artefact_layout.EXTRA / artefact_layout.WARMUP, "rb") as file:
        logs = [
            prediction_log_pb2.PredictionLog.FromString(record)
            for record in read_records(file)
        ]
    requests = [log.predict_log.request for log in logs]
    called = [request.model_spec.signature_name for request in requests]
    assert called == ["serving_default", "image_bytes"]
    for request in requests:
        inputs = {k: tf.constant(tf.make_ndarray(v)) for k, v in request.inputs.items()}
        result = model.signatures[request.model_spec.signature_name](**inputs)
        assert result["classes"].shape == (
            1,
            76,
            76,
        )  # the frames' 128 px, at most a tile


@pytest.mark.slow
def test_onnx_equals_tensorflow(version, image):
    by_onnx, [by_tf] = (
        runtimes.load(str(version), runtime="onnx")[0],
        runtimes.load(str(version), runtime="tensorflow"),
    )
    deep = image.astype(np.uint16) * 200 + 11
    for picture in (image, deep, image[:1, :1], image[:, :7], deep[:33]):
        theirs, ours = by_onnx.segment(picture), by_tf.segment(picture)
        for one, other in zip(theirs, ours, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                np.testing.assert_allclose(one, other, atol=1e-5)
    for runtime in ("onnx", "tensorflow"):
        [averaging] = runtimes.load(str(version), runtime=runtime, tta=True)
        result = averaging.segment(image).probabilities
        if runtime == "onnx":
            first = result
    np.testing.assert_allclose(first, result, atol=1e-5)
    assert np.abs(first - by_tf.segment(image).probabilities).max() > 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("classes, standardized", [(2, False), (4, True)])
def test_onnx_is_the_signature_tile(tmp_path, classes, standardized):
    """By every kind of layer, at two sizes; the classes too, with a threshold."""
    config = synthetic.get_config("smoke").model
    with config.unlocked():
        config.update(depth=2, classes=classes, channels=3, dropout=0.5)
        config.standardized_kernels = standardized
    network = build_model(config, tile_seeds=TileSeeds())
    for weight in network.weights:  # biases are 0 at first
        weight.assign(weight + 0.05)
    segmenter = Segmenter(
        freeze(network), depth=2, classes=classes, tile=76, threshold=0.4
    )
    tile = tile_function(segmenter, 3)
    onnx.write_tile(str(tmp_path / "tile.onnx"), [network], segmenter, {"depth": 2})
    session = onnxruntime.InferenceSession(tmp_path / "tile.onnx")
    pixels = np.random.default_rng(0)
    for height, width in ((76, 76), (92, 60)):
        image = pixels.uniform(0, 255, (2, height, width, 3)).astype(np.float32)
        image[..., 1] = 120  # of one value: its deviation is 0
        given = {
            "tile": image,
            "mean": np.full((2, 3), 120, np.float32),
            "std": np.array([[60, 0, 70]] * 2, np.float32),
        }
        ours, by_onnx = tile(**given), session.run(None, given)
        np.testing.assert_allclose(by_onnx[0], ours["probabilities"], atol=1e-5)
        # Where both classes are as likely, the last digit decides.
        assert np.mean(by_onnx[1] == ours["classes"]) > 0.999
        assert len(np.unique(by_onnx[1])) > 1


@pytest.mark.slow
def test_tta_at_export_is_every_whole_images_default(trained, version, tmp_path, image):
    assert run("export", "--tta", workdir=trained, output=tmp_path / "m") == 0
    averaged = tf.saved_model.load(f"{tmp_path}/m/1").signatures["serving_default"]
    asked = tf.saved_model.load(str(version)).signatures["image_tta"]
    batch = tf.constant(image[None], tf.float32)
    np.testing.assert_allclose(
        averaged(image=batch)["probabilities"],
        asked(image=batch)["probabilities"],
        atol=1e-5,
    )


@pytest.mark.slow
def test_weights_as_variables_give_the_same(trained, model, tmp_path, image):
    where = {"workdir": trained, "output": tmp_path / "m"}
    assert run("export", "--weights=variables", **where) == 0
    data = next((tmp_path / "m/1/variables").glob("variables.data*"))
    assert data.stat().st_size > 20_000
    other = tf.saved_model.load(f"{tmp_path}/m/1")
    batch = tf.constant(image[None], tf.float32)
    for name in ("serving_default", "image_tta"):
        np.testing.assert_allclose(
            other.signatures[name](image=batch)["probabilities"],
            model.signatures[name](image=batch)["probabilities"],
            atol=1e-5,
        )


@pytest.mark.slow
def test_precision_changes_numbers_a_little_and_no_dtype(
    trained, model, tmp_path, image
):
    where = {"workdir": trained, "output": tmp_path / "m"}
    assert run("export", "--precision=mixed_bfloat16", **where) == 0
    half = tf.saved_model.load(f"{tmp_path}/m/1").signatures["serving_default"]
    batch = tf.constant(image[None], tf.float32)
    found = half(image=batch)["probabilities"]
    full = model.signatures["serving_default"](image=batch)["probabilities"]
    assert found.dtype == tf.float32
    assert 1e-6 < np.abs(found - full).max() < 0.05


@pytest.mark.parametrize("budget", [200, 500, 5000])
@pytest.mark.parametrize("width, depth", [(16, 4), (64, 4), (8, 3)])
def test_memory_budget_gives_the_largest_tile_within(budget, width, depth):
    def needs(size):
        return tile_memory.bytes_of_step(size, width=width, tiles_per_step=1)

    tile = tile_memory.tile_within(budget, width=width, depth=depth)
    assert needs(tile) <= budget * 10**6 < needs(tile + 2**depth)


def test_a_gpu_needs_memory_of_its_own_kind():
    """More arrays in float32, of half the bytes in half precision."""

    def tile(*device):
        return tile_memory.tile_within(
            2000, width=64, depth=4, device=tile_memory.Device(*device)
        )

    assert tile("gpu", "float32") < tile("cpu", "float32")
    assert tile("gpu", "float32") < tile("gpu", "mixed_bfloat16")


@pytest.mark.parametrize(
    "flags, constant",
    [
        ([], True),
        (["--device=gpu"], False),
        (["--precision=mixed_float16"], False),
        (["--precision=mixed_float16", "--device=cpu"], True),
        (["--device=gpu", "--weights=constants"], True),
    ],
)
@pytest.mark.slow
def test_weights_are_constants_for_a_processor_alone(
    trained, tmp_path, flags, constant
):
    assert run("export", *flags, workdir=trained, output=tmp_path / "m") == 0
    assert (tmp_path / "m/1/variables/variables.index").exists()
    variables = tf.train.list_variables(f"{tmp_path}/m/1/variables/variables")
    weights = [name for name, shape in variables if shape]
    assert bool(weights) != constant


MISTAKES = [
    (["--tile=61"], "61 px is not legal"),
    (["--tile=76", "--memory_mb=500"], "not both"),
    (["--memory_mb=-1"], "the smallest tile at depth 2"),
    (["--tiles_per_step=0"], "at least 1"),
    (["--onnx", "--precision=mixed_bfloat16"], "--onnx needs --precision=float32"),
    (["--weights=none"], "one of <auto|constants|variables>"),
    (["--precision=float16"], "one of <float32"),
    (["--checkpoint=77"], "77"),
]


@pytest.mark.slow
@pytest.mark.parametrize("more, message", MISTAKES)
def test_mistakes_are_one_line_and_leave_nothing(
    trained, tmp_path, capfd, more, message
):
    where = {"workdir": trained, "output": tmp_path / "m"}
    assert message in refused(capfd, "export", *more, **where)
    assert not (tmp_path / "m").exists()


def test_class_names_must_be_as_many_as_classes():
    config = base.get_config()
    config.model.class_names = ("background", "cell", "more")
    with pytest.raises(UserError, match="3 names where"):
        check_data_config(config)
