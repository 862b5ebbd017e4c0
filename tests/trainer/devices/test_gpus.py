"""What is decided for GPUs. There are none here: their drivers' answers are played."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs import base
from tests.commands import mistakes
from trainer.devices import gpus, startup, strategy
from trainer.network.unet import build_model
from trainer.training import batch_size
from trainer.training.packs import PACK_BYTES, Packs
from unet_tfrecords.command.errors import UserError

KINDS = tf.distribute.experimental.CommunicationImplementation


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine: which GPUs TensorFlow sees, which the system has, and its builds."""

    def play(*capabilities, files=(), cuda=True, cudnn=(9, 28), gibibytes=80):
        seen = [types.SimpleNamespace(device_type="GPU") for _ in capabilities]
        real = tf.config.list_physical_devices
        monkeypatch.setattr(
            tf.config,
            "list_physical_devices",
            lambda kind=None: seen if kind == "GPU" else real(kind),
        )
        monkeypatch.setattr(strategy, "capabilities", lambda: list(capabilities))
        monkeypatch.setattr(gpus, "cudnn", lambda: cudnn)
        monkeypatch.setattr(strategy, "gpu_megabytes", lambda: gibibytes * 1024)
        monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: cuda)
        for name in files:
            (tmp_path / name).touch()
        monkeypatch.setattr(strategy, "DEVICE_FILES", f"{tmp_path}/nvidia[0-9]*")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return play


# --- A GPU that TensorFlow does not use -----------------------------------------------


def test_training_silently_on_the_processor_is_refused(machine, monkeypatch, capfd):
    """As in an image whose LD_LIBRARY_PATH leaves out the driver."""
    machine(files=("nvidia0", "nvidia1", "nvidiactl"))
    [line] = mistakes(strategy.find_gpus)
    assert "nvidia1: TensorFlow uses no GPU" in line and "--allow_cpu" in line
    assert "LD_LIBRARY_PATH=/usr/local/nvidia/lib64" in line  # no libcuda.so.1 here
    assert strategy.find_gpus(allow_cpu=True) == []
    assert "training on the processor" in capfd.readouterr().err
    monkeypatch.setattr(strategy.ctypes, "CDLL", lambda name: None)
    with pytest.raises(UserError, match="the driver or CUDA's libraries don't fit"):
        strategy.find_gpus()


@pytest.mark.parametrize("hidden", ("", "-1"))
def test_who_hides_the_gpus_means_the_processor(machine, monkeypatch, capfd, hidden):
    machine(files=("nvidia0",))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert strategy.find_gpus() == [] and not capfd.readouterr().err


def test_other_commands_say_so_and_go_on(machine, capfd):
    machine(files=("nvidia0",))
    startup.load_tensorflow()
    assert "computing on the processor" in capfd.readouterr().err
    machine((8, 0), files=("nvidia0",))
    startup.load_tensorflow()
    said = capfd.readouterr()
    assert "computing on" not in said.err and "takes longer" not in said.err


def test_the_first_start_on_hopper_is_announced(machine, capfd, monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_CACHE_PATH", str(tmp_path))
    machine((9, 0))
    startup.load_tensorflow()
    assert f"and keeps them in {tmp_path}" in capfd.readouterr().err
    (tmp_path / "kernels").write_bytes(bytes(10))
    startup.load_tensorflow()
    assert "takes longer" not in capfd.readouterr().err


def test_a_machine_without_gpus_says_nothing(machine, capfd):
    machine()
    assert strategy.find_gpus() == [] and not capfd.readouterr().err


def test_the_processors_tensorflow_beside_a_gpu_says_so(machine, capfd):
    machine(files=("nvidia0",), cuda=False)
    assert strategy.find_gpus() == []
    assert "UNET_FLAVOUR=gpu" in capfd.readouterr().err


def test_gpus_that_libraries_do_not_support_are_refused(machine, capfd):
    machine((7, 0), (8, 0))
    with pytest.raises(
        UserError, match="7.0: cuDNN 9.28 .*nvidia-cudnn-cu12>=9.3,<9.11"
    ):
        strategy.find_gpus()
    machine((7, 0), cudnn=(9, 10))
    assert len(strategy.find_gpus()) == 1
    machine((5, 2), cudnn=())
    with pytest.raises(UserError, match="5.2: TensorFlow has no kernels below 6.0"):
        strategy.find_gpus()
    machine((12, 0))
    assert len(strategy.find_gpus()) == 1
    assert "Blackwell" in capfd.readouterr().err


# --- How they work together -----------------------------------------------------------


def test_workers_with_gpus_ask_for_nccl():
    """TensorFlow's auto is its own ring, whatever the devices."""
    for has_gpus, flag, kind in (
        (True, "auto", KINDS.NCCL),
        (True, "nccl", KINDS.NCCL),
        (True, "ring", KINDS.RING),
        (False, "auto", KINDS.AUTO),
        (False, "nccl", KINDS.AUTO),
    ):
        assert strategy.communication(has_gpus, flag).implementation is kind


@pytest.fixture
def strategies(monkeypatch):
    """Notes the strategies that are made, in place of making them."""
    made = []

    def note(name):
        def noted(*arguments, **named):
            made.append((name, arguments, named))

        monkeypatch.setattr(tf.distribute, name, noted)

    for name in ("MirroredStrategy", "MultiWorkerMirroredStrategy"):
        note(name)
    note("OneDeviceStrategy")
    return made


def test_parts_of_one_gpu_do_not_sum_by_nccl(machine, strategies, monkeypatch):
    """With two GPUs and --devices=2 TensorFlow takes NCCL, over one GPU twice."""
    machine((9, 0), (9, 0))
    visible, parts = [], []
    monkeypatch.setattr(
        tf.config, "set_visible_devices", lambda devices, kind: visible.append(devices)
    )
    monkeypatch.setattr(
        tf.config,
        "set_logical_device_configuration",
        lambda device, given: parts.append(given),
    )
    strategy.start(2)
    [(name, (devices,), named)] = strategies
    assert name == "MirroredStrategy" and devices == ["/gpu:0", "/gpu:1"]
    copies = named["cross_device_ops"]
    assert isinstance(copies, tf.distribute.ReductionToOneDevice)
    assert [len(each) for each in visible] == [1]  # the other GPU is hidden
    assert [p.memory_limit for p in parts[0]] == [80 * 1024 * 9 // 10 // 2] * 2


def test_one_host_lets_tensorflow_choose_unless_told(machine, strategies):
    machine((9, 0), (9, 0))
    strategy.start()
    strategy.start(all_reduce="ring")
    (_, _, chosen), (_, _, told) = strategies
    assert chosen == {"cross_device_ops": None}
    assert isinstance(told["cross_device_ops"], tf.distribute.ReductionToOneDevice)
    machine((9, 0))
    strategy.start()
    assert strategies[-1][:2] == ("OneDeviceStrategy", ("/gpu:0",))


def test_compiled_unless_a_gpu_is_newer_than_xla(machine):
    for capabilities, expected in (
        ([], True),
        ([(8, 0)], True),
        ([(9, 0)] * 8, True),
        ([(12, 0)], False),
        ([(9, 0), (10, 0)], False),
    ):
        machine(*capabilities)
        assert strategy.resolve_xla("auto") is expected
        assert strategy.resolve_xla("on") and not strategy.resolve_xla("off")


def test_the_environment_of_cuda_and_its_users_own_words():
    found: dict[str, str] = {"TF_GPU_THREAD_MODE": "global"}
    gpus.set_environment(found)
    assert found == {
        "TF_GPU_THREAD_MODE": "global",
        "CUDA_CACHE_MAXSIZE": "4294967296",
    }
    assert gpus.cache_folder({"CUDA_CACHE_PATH": "/mnt/cache"}) == "/mnt/cache"
    assert gpus.cache_folder({}).endswith("/.nv/ComputeCache")


def test_a_slow_start_says_why(monkeypatch, tmp_path):
    monkeypatch.setattr(startup, "FIRST_WORD_S", 0.01)
    monkeypatch.setattr(startup, "NEXT_WORD_S", 0.01)
    monkeypatch.setenv("CUDA_CACHE_PATH", str(tmp_path))
    (tmp_path / "kernels").write_bytes(bytes(3_000_000))
    said: list[str] = []
    with startup.explaining("the first step", said.append, compiles_kernels=True):
        while len(said) < 2:
            pass
    assert "still compiling the first step" in said[0]
    assert f"{tmp_path} (3 MB by now)" in said[0]
    before = len(said)
    with startup.explaining("it", said.append):  # over at once
        pass
    assert len(said) == before


def test_the_smallest_visible_gpu_counts(monkeypatch, tmp_path, capfd):
    """By nvidia-smi; where that does not know, training goes on with a tile each."""
    script = tmp_path / "nvidia-smi"

    def says(text, code=0):
        script.write_text(
            f"#!/bin/sh\nprintf '%s' \"$*\" >{tmp_path}/asked\n"
            f"printf '{text}'\nexit {code}\n"
        )
        script.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [object()])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    says("WARNING: infoROM\\n81559\\n16160\\n")
    assert strategy.gpu_bytes() == 16160 * 2**20
    assert "--id=1,2" in (tmp_path / "asked").read_text()
    for text, code in (("[N/A]\\n", 0), ("No devices were found", 6)):
        says(text, code)
        assert strategy.gpu_bytes() == 0
        assert "config.train.tiles_per_replica" in capfd.readouterr().err
    script.unlink()
    assert strategy.gpu_bytes() == 0


# --- How many tiles -------------------------------------------------------------------


@pytest.mark.parametrize(
    "width, depth, size, classes", [(64, 4, 572, 2), (8, 2, 60, 3)]
)
def test_activations_and_parameters_are_the_networks(width, depth, size, classes):
    model = base.get_config().model
    model.update({"width": width, "depth": depth, "classes": classes})
    network = build_model(model, size=size)
    counted = sum(
        int(np.prod(layer.output.shape[1:]))
        for layer in network.layers
        if not isinstance(layer, keras.layers.InputLayer)
        # Not kept: a crop is read once, dropout is part of the pooling before it.
        and not layer.name.startswith(("cropped", "dropout"))
    )
    assert batch_size.activations(model, size) == counted
    assert batch_size.parameters(model) == network.count_params()


def test_what_fits():
    config = base.get_config()
    fit = batch_size.tiles_that_fit
    assert fit(config, "float32", 80e9) == fit(config, "mixed_float16", 16e9) == 8
    assert fit(config, "mixed_bfloat16", 141e9) == 8
    assert fit(config, "float32", 16e9) == 4
    with pytest.raises(UserError, match="a GPU of 3 GB is too small for tiles of 572"):
        fit(config, "float32", 3e9)
    config.model.width = 16
    assert fit(config, "float32", 6e9) == 8


@pytest.mark.parametrize(
    "changes, replicas, fitting, expected",
    [
        ({}, 1, 1, (1, "sqrt")),
        ({}, 8, 8, (64, "sqrt")),
        ({}, 16, 4, (64, "sqrt")),
        ({"accumulate": 2}, 8, 8, (64, "sqrt")),  # four at once: half of the memory
        ({"accumulate": 3}, 1, 8, (9, "sqrt")),
        ({"accumulate": 4}, 2, 1, (8, "sqrt")),
        ({"tiles_per_replica": 4}, 3, 8, (12, "sqrt")),
        ({"global_batch": 4}, 8, 8, (4, "fixed")),
        ({"learning_rate_rule": "linear"}, 2, 1, (2, "linear")),
    ],
)
def test_what_the_config_leaves_open_is_settled(changes, replicas, fitting, expected):
    train = base.get_config().train
    train.update(changes)
    batch_size.settle(train, replicas=replicas, fitting=fitting)
    assert (train.global_batch, train.learning_rate_rule) == expected


def test_packs_of_the_papers_network():
    """Five, of which two hold the two largest layers alone."""
    network = build_model(base.get_config().model)
    packs = Packs([v.shape for v in network.trainable_variables])
    sizes = [4 * sum(packs._size(i) for i in group) for group in packs.groups]
    assert sum(sizes) == 4 * 31_030_658 and len(sizes) == 5
    assert [size for size in sizes if size > PACK_BYTES] == [4 * 9 * 1024 * 1024]


def test_packs_give_back_what_they_took():
    drawn = np.random.default_rng(0)
    shapes = [(3, 3, 1, 4), (4,), (), (7, 2), (1,)]
    gradients = [tf.constant(drawn.normal(size=s), tf.float32) for s in shapes]
    for most in (1, 16, 60, 10_000):
        packs = Packs(shapes, most_bytes=most)
        loss, found = packs.split(packs.join(0.25, gradients))
        assert float(loss) == 0.25
        for mine, theirs in zip(found, gradients, strict=True):
            np.testing.assert_array_equal(mine, theirs)
