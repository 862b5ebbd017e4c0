"""doctor: what ails a machine is found, whichever part is missing."""

import importlib.metadata
import os
import signal
import socket
import sys

import pytest

from doctor import devices, examine, host, packages, places
from doctor.finding import Finding
from tests.cloud import stores as loopback
from tests.commands import PYTHON, ROOT, module, process, started
from tests.folders import write_program
from unet_tfrecords.command import memory
from unet_tfrecords.storage import stores


@pytest.mark.slow
def test_a_sound_machine_is_fine(cells, tmp_path, capsys):
    assert examine.examine(str(cells), str(tmp_path / "out")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "all fine"
    assert all(line.startswith("fine ") for line in lines[:-1])
    looked = {line[7:].split(":")[0] for line in lines[:-1]}
    expected = {"Python", "memory", "disk", "open files", "packages"}
    expected |= {"CRC extension", "TensorFlow", "GPUs"}
    assert looked >= expected | {"precision"}
    assert not (tmp_path / "out").exists()


def test_ctrl_c_is_one_line():
    doctor = started(*module("doctor"), env={"PYTHONUNBUFFERED": "1"})
    assert doctor.stdout.readline()  # it is at work
    doctor.send_signal(signal.SIGINT)
    _, said = doctor.communicate(timeout=60)
    assert doctor.returncode == 130 and "doctor: interrupted" in said
    assert "Traceback" not in said


def test_nothing_installed_is_one_line_and_a_cure():
    """A Python without any package, as before ./launch.sh setup."""
    command = [sys._base_executable, "-S", "-m", "doctor.main"]
    ended = process(*command, env={"PYTHONPATH": "", "PATH": "/usr/bin:/bin"})
    assert ended.returncode == examine.WRONG and not ended.stderr
    wrong = [s for s in ended.stdout.splitlines() if s.startswith("WRONG")]
    assert [line[7:].split(":")[0] for line in wrong] == ["packages"]
    assert "-> ./launch.sh setup" in ended.stdout


@pytest.mark.parametrize(
    "finding, words",
    [
        (host.python((3, 9, 2)), "python3.11"),
        (host.python((3, 14, 0)), "python3.11"),
        (host.processor({"sse4_2"}, 4), "no AVX"),
        (host.memory(1e9), "1.0 GB"),
        (host.disk("disk", "/", 1e9), "--output"),
        (host.disk("temporary files", "/", 1e9), "TMPDIR"),
        (host.open_files(256, 4096), "ulimit -n"),
    ],
)
def test_what_a_machine_lacks_has_a_cure(finding, words):
    assert finding.cure
    assert words in f"{finding.says} {finding.cure}"


@pytest.mark.parametrize(
    "finding",
    [
        host.python((3, 12, 1)),
        host.processor(set(), 1),  # a machine that tells nothing of its processor
        host.memory(8e9),
        host.disk("disk", "/nowhere/at/all", 8e9),
        host.open_files(-1, -1),
    ],
)
def test_what_a_machine_has_is_fine(finding):
    assert not finding.cure


def test_the_memory_of_a_container_counts(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    limit.write_text("1000000\n")
    (tmp_path / "memory.stat").write_text("anon 1000\nfile 9\nshmem 0\n")
    monkeypatch.setattr(memory, "CGROUP", str(tmp_path))
    assert memory.free_memory() == 999_000
    limit.write_text("max\n")
    assert memory.free_memory() > 1_000_000


def test_another_version_than_the_lock_is_named(tmp_path, monkeypatch):
    (tmp_path / "numpy-1.0.dist-info").mkdir()
    (tmp_path / "numpy-1.0.dist-info/METADATA").write_text(
        "Name: numpy\nVersion: 1.0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = packages.requirements()
    assert "numpy 1.0 is not >=1.26" in found.says and found.cure == packages.again()
    stamp = tmp_path / "venv"
    stamp.mkdir()
    (stamp / ".complete").write_text("cpu 1 2\n")
    monkeypatch.setattr(packages, "STAMP", stamp / ".complete")
    found = packages.locked()
    assert "numpy 1.0 is not ==" in found.says and found.cure == packages.again()


def test_a_missing_package_is_named(monkeypatch):
    there = packages.version_of
    gone = {"opencv-python-headless"}
    monkeypatch.setattr(packages, "version_of", lambda n: "" if n in gone else there(n))
    found = packages.requirements()
    assert found.says == "opencv-python-headless is missing" and found.cure


# --- GPUs: there is none here, so the driver's own command is played ------------------

TWO = "NVIDIA H100 80GB HBM3, 555.42.06, 9.0, 81559 MiB\n" * 2
V100 = "Tesla V100-SXM2-16GB, 550.54.15, 7.0, 16160 MiB\n" * 2
A100 = "NVIDIA A100-SXM4-80GB, 525.60.13, 8.0, 81920 MiB\n" * 2
B200 = "NVIDIA B200, 570.86.10, 10.0, 183359 MiB\n" * 2
SEEN = {
    "tensorflow": "2.21.0",
    "keras": "3.15.1",
    "cuda": "12.5.1",
    "capabilities": [[9, 0], [9, 0]],
    "precision": "mixed_bfloat16",
    "computes": "",
    "reduces": "",
    "reached": {},
}


def report(monkeypatch, tmp_path, smi: str, seen: dict, code: int = 0) -> list[Finding]:
    text = f"#!/bin/sh\nprintf '%s' '{smi}'\nexit {code}\n"
    write_program(tmp_path / "nvidia-smi", text)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(devices, "run_probe", lambda limit: (seen, ""))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.28.1")
    return list(devices.look())


def test_sound_gpus(monkeypatch, tmp_path):
    found = report(monkeypatch, tmp_path, TWO, SEEN)
    assert not [line for line in found if line.cure]
    said = {line.what: line.says for line in found}
    assert said["GPUs taken"] == "TensorFlow takes 2 of 2"
    assert said["precision"] == "mixed_bfloat16, compute capability 9.0, 9.0"
    assert said["driver"] == "555.42.06, 555.42 or newer is wanted"
    assert said["GPU support"] == "compute capability 9.0 is supported"
    assert said["CUDA cache"].endswith("ComputeCache")
    assert said["NCCL"] == "all GPUs add up"


def test_an_older_gpu_needs_no_newer_driver(monkeypatch, tmp_path):
    seen = {**SEEN, "capabilities": [[8, 0], [8, 0]]}
    found = report(monkeypatch, tmp_path, A100, seen)
    assert not [line for line in found if line.cure]
    assert "CUDA cache" not in {line.what for line in found}  # all is machine code


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root writes anywhere
    monkeypatch.setenv("CUDA_CACHE_PATH", str(tmp_path / "cache"))
    found = devices.cache()
    assert found.cure and str(tmp_path) in found.says


@pytest.mark.parametrize(
    "smi, changes, code, what, words",
    [
        (TWO.replace("555.42.06", "550.54.15"), {}, 0, "driver", "555.42 or newer"),
        (A100.replace("525.60.13", "470.1.2"), {}, 0, "driver", "525.60 or newer"),
        (V100, {}, 0, "GPU support", "nvidia-cudnn-cu12>=9.3,<9.11"),
        (B200, {}, 0, "GPU support", "Blackwell"),
        (TWO, {"capabilities": [], "unseen": "no libcuda"}, 0, "GPUs taken", "libcuda"),
        (TWO, {"capabilities": [[9, 0]]}, 0, "GPUs taken", "1 of 2"),
        (TWO, {"reduces": "unhandled system error"}, 0, "NCCL", "NCCL_DEBUG=INFO"),
        (TWO, {"computes": "no kernel image"}, 0, "TensorFlow", "no kernel image"),
        ("Driver/library version mismatch", {}, 18, "GPUs", "mismatch"),
    ],
)
def test_unsound_gpus(monkeypatch, tmp_path, smi, changes, code, what, words):
    found = report(monkeypatch, tmp_path, smi, {**SEEN, **changes}, code)
    [wrong] = [line for line in found if line.cure and line.what == what]
    assert words in f"{wrong.says} {wrong.cure}"


@pytest.mark.parametrize(
    "content, mode, words",
    [
        ("", 0o644, "can't be run"),
        ("\x7fELF junk", 0o755, "can't be run"),
        ("#!/bin/sh\nprintf '\\377\\n'; exit 9", 0o755, "nvidia-smi: "),
        ("#!/bin/sh\nexit 3", 0o755, "nvidia-smi: 3"),
    ],
)
def test_an_nvidia_smi_that_is_none(monkeypatch, tmp_path, content, mode, words):
    (tmp_path / "nvidia-smi").write_text(content)
    (tmp_path / "nvidia-smi").chmod(mode)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    if mode == 0o644:  # a search goes past it, to none
        monkeypatch.setenv("PATH", str(tmp_path))
    gpus, trouble = devices.find_gpus()
    assert not gpus and words in trouble


def test_warnings_among_the_gpus_are_passed_over(monkeypatch, tmp_path):
    smi = "WARNING: infoROM is corrupted\nA, B,550.1,[N/A],80 MiB\n"
    [found, *_] = report(monkeypatch, tmp_path, smi, SEEN)
    assert found.says == "A, B (80 MiB)" and not found.cure


@pytest.mark.slow
def test_the_probe_tells_what_tensorflow_can_do(tmp_path):
    seen, reason = devices.run_probe()
    assert not reason and seen["computes"] == "" and seen["precision"] == "float32"


SUMMED = """
import tensorflow as tf
from doctor import probe

cpu = tf.config.list_physical_devices("CPU")[0]
parts = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, parts)
traced, real = [], tf.function
tf.function = lambda function: traced.append(real(function)) or traced[-1]
probe.reduce(tf, ["/cpu:0", "/cpu:1"])
operations = traced[0].get_concrete_function().graph.get_operations()
print([op.type for op in operations].count("CollectiveReduceV2"))
"""


@pytest.mark.slow
def test_gpus_are_asked_to_sum_by_collectives():
    """As in training: to reduce to one device would copy and add, without NCCL.

    In a process of its own, since TensorFlow numbers sums once a process.
    """
    done = process(PYTHON, "-c", SUMMED)
    assert done.stdout == "2\n", done.stderr


def test_a_tensorflow_that_ends_its_process(tmp_path, monkeypatch):
    (tmp_path / "tensorflow.py").write_text("import os\nos.abort()\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    seen, reason = devices.run_probe()
    assert not seen and reason == "ended by signal 6"
    assert devices.tensorflow(seen, reason).cure


# --- Places ---------------------------------------------------------------------------


def test_folders(tmp_path):
    full, empty = tmp_path / "full", tmp_path / "empty"
    full.mkdir()
    empty.mkdir()
    (full / "a.tif").write_text("")
    for path, says in (
        (full, "can be read"),
        (empty, "empty"),
        (tmp_path / "none", "No such file"),
    ):
        [found] = places.look(str(path), "")
        assert says in found.says and bool(found.cure) == (path != full)
    for path, says in (
        (tmp_path / "to/be/made", "can be written"),
        ("/proc/nowhere", "No such file"),
        (full / "a.tif", "a.tif is a file"),
    ):
        [found] = places.look("", str(path))
        assert says in found.says
    assert host.temporary(str(tmp_path / "none")).cure


@pytest.fixture
def silent():
    """An address where somebody listens and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def bare(monkeypatch, tmp_path, **environment: str) -> None:
    """No login of any kind, as for a new account, and no client of before."""
    stores.forget()
    for name in list(os.environ):
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_", "STORAGE_", "CLOUDSDK")):
            monkeypatch.delenv(name)
    given = {"HOME": str(tmp_path), "NO_GCE_CHECK": "true", **environment}
    for name, value in {**given, "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)


def test_a_missing_login_is_told(monkeypatch, tmp_path, silent):
    bare(monkeypatch, tmp_path, AWS_ENDPOINT_URL=silent)
    [found] = places.look("", "s3://no-login/out")
    assert "not logged in" in found.says and "aws configure" in found.says


def test_a_silent_store_is_told(monkeypatch, tmp_path, silent):
    key = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    bare(monkeypatch, tmp_path, AWS_ENDPOINT_URL=silent, **key)
    monkeypatch.setattr(places, "ANSWER_S", 1.0)
    [found] = places.look("s3://silent/in", "")
    assert "no answer in 1 s" in found.says and found.cure


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["gs", "s3", "az"])
def test_buckets(scheme, tmp_path, monkeypatch):
    with loopback.OPENERS[scheme](tmp_path) as store:
        bare(monkeypatch, tmp_path, **store.environment)
        store.put("raw/a", b"pixels")
        found = list(places.look(f"{store.root}/raw", f"{store.root}/out"))
        assert [one.says for one in found] == ["can be read", "can be written"]
        assert not store.names("out")
        [missing] = places.look("", f"{scheme}://not-there/out")
        assert f"no bucket {scheme}://not-there" in missing.says and missing.cure


def test_doctor_takes_the_pythons_that_the_package_takes():
    requires = importlib.metadata.metadata("unet-tfrecords")["Requires-Python"]
    (first, last) = (".".join(map(str, version)) for version in host.PYTHONS)
    assert set(requires.split(",")) == {f">={first}", f"<{last}"}
