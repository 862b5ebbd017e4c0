"""The network is the paper's, and legal at every depth."""

import numpy as np
import pytest

from configs import base
from trainer.network.unet import build_model
from unet_tfrecords.dataset import tiling

# Layer, edge in px, channels, for a (572, 572, 1) input.
PAPER = """
conv1_1 570 64, conv1_2 568 64, maxpooling_1 284 64,
conv2_1 282 128, conv2_2 280 128, maxpooling_2 140 128,
conv3_1 138 256, conv3_2 136 256, maxpooling_3 68 256,
conv4_1 66 512, conv4_2 64 512, maxpooling_4 32 512,
conv5_1 30 1024, conv5_2 28 1024,
upsampling1 56 512, cropped_conv4_2 56 512, skip_connection1 56 1024,
conv6_1 54 512, conv6_2 52 512,
upsampling2 104 256, cropped_conv3_2 104 256, skip_connection2 104 512,
conv7_1 102 256, conv7_2 100 256,
upsampling3 200 128, cropped_conv2_2 200 128, skip_connection3 200 256,
conv8_1 198 128, conv8_2 196 128,
upsampling4 392 64, cropped_conv1_2 392 64, skip_connection4 392 128,
conv9_1 390 64, conv9_2 388 64, conv10 388 2
"""


def small(**changes):
    model = base.get_config().model
    model.update({"width": 2, "dropout": 0.0} | changes)
    return model


def test_layers_are_the_papers():
    network = build_model(base.get_config().model, size=572)
    rows = [row.split() for row in PAPER.replace("\n", "").split(",")]
    expected = {name: (None, int(px), int(px), int(c)) for name, px, c in rows}
    shapes = {layer.name: layer.output.shape for layer in network.layers}
    assert {name: shapes[name] for name in expected} == expected
    extra = shapes.keys() - expected.keys()
    assert extra == {"image", "dropout4", "dropout5"}
    assert network.count_params() == 31_030_658
    lines: list[str] = []
    network.summary(print_fn=lines.append, line_length=120)
    text = "\n".join(lines)
    assert "31,030,658" in text and all(name in text for name in expected)


@pytest.mark.parametrize("depth", range(1, 6))
def test_output_sizes_follow_the_geometry(depth):
    network = build_model(small(depth=depth, channels=3, classes=4))
    for output in (1, 40):
        size = tiling.legal_input_at_least(output, depth)
        logits = network(np.zeros((1, size, size, 3), np.float32))
        expected = tiling.output_size(size, depth)
        assert logits.shape == (1, expected, expected, 4)


def test_illegal_size_is_refused():
    with pytest.raises(ValueError, match="696 px is not legal"):
        build_model(small(), size=696)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_receptive_field_is_the_border(depth):
    """Outputs see half the border around their block of pooled pixels, no further."""
    network = build_model(small(depth=depth, width=4), seed=3)
    pad, block = tiling.pad(depth), 2**depth
    size = tiling.legal_input_at_least(4 * pad, depth)
    image = np.random.default_rng(0).normal(size=(1, size, size, 1))
    moved = image.copy()
    centre = size // 2
    moved[0, centre, centre] += 10
    changed = np.abs(network(image).numpy() - network(moved).numpy()).max(-1)[0] > 0
    for positions in np.nonzero(changed):
        away = positions + pad - centre
        assert positions.size > 0
        assert away.min() >= -(pad + block - 1) and away.max() <= pad + block - 1
        assert away.max() - away.min() > pad


def test_initial_weights_are_he_normal_and_seeded():
    first = build_model(small(width=32, depth=2), seed=1)
    again = build_model(small(width=32, depth=2), seed=1)
    other = build_model(small(width=32, depth=2), seed=2)
    kernels = [n.get_layer("conv2_2").kernel.numpy() for n in (first, again, other)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert (kernels[0] != kernels[2]).all()
    assert kernels[0].std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.03)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_logits_are_float32_in_mixed_precision(precision):
    network = build_model(small(depth=2), precision=precision)
    assert network.get_layer("conv2_1").compute_dtype == precision[6:]
    assert network(np.zeros((1, 60, 60, 1), np.float32)).dtype == "float32"
    assert {v.dtype for v in network.variables} <= {"float32", "uint32"}
