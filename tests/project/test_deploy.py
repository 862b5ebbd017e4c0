"""Manifests of clusters: as their schemas want them, and their scripts run."""

import json
import shlex

import kubernetes_validate
import pytest
import yaml

from tests.commands import ROOT, command, process
from tests.folders import write_program
from trainer.devices import strategy
from trainer.training.batch_size import settle, tiles_that_fit
from trainer.training.train_settings import check_batch, check_train_config
from unet_tfrecords.command import cli
from unet_tfrecords.command.errors import UserError

KUBERNETES = ("1.33", "1.37")  # the oldest that has all we use, and the newest known


def documents() -> list[dict]:
    text = (ROOT / "deploy/kubernetes.yaml").read_text()
    return list(yaml.safe_load_all(text))


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_manifest(version):
    for document in documents():
        kubernetes_validate.validate(document, version, strict=True)
    service, job = documents()
    spec = job["spec"]
    # What no schema looks at.
    pod = spec["template"]["spec"]
    assert spec["completions"] == spec["parallelism"]
    [container] = pod["containers"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert environment["WORKERS"] == str(spec["completions"])
    # What CUDA compiles must outlive the pod.
    mounts = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
    volume = mounts[environment["CUDA_CACHE_PATH"]]
    [cache] = [entry for entry in pod["volumes"] if entry["name"] == volume]
    assert "hostPath" in cache
    assert int(container["resources"]["requests"]["cpu"]) >= 64
    assert pod["restartPolicy"] == "Never" and spec["completionMode"] == "Indexed"
    assert pod["subdomain"] == service["metadata"]["name"] == job["metadata"]["name"]
    actions = [rule["action"] for rule in spec["podFailurePolicy"]["rules"]]
    assert actions == ["Ignore", "Ignore", "FailJob"]


def known_flags(arguments: list[str]) -> None:
    """That the train command has each of them."""
    from absl import flags

    values = flags.FlagValues()
    for flag in command("train").flags:
        flag(values)
    for argument in arguments:
        name = argument.removeprefix("--").split("=")[0]
        assert name == "config" or name in values, argument


def assert_trains(arguments: list[str], *, replicas: int) -> None:
    """That the trainer accepts the flags and the config on so many GPUs."""
    values, rest = cli.parse(command("train"), arguments)
    assert values is not None and not rest
    config = cli.config_of(values)
    check_train_config(config)
    fitting = tiles_that_fit(config, "mixed_bfloat16", 80e9)
    settle(config.train, replicas=replicas, fitting=fitting)
    check_batch(config.train, replicas)
    assert config.train.global_batch == 8 * replicas


def test_manifests_and_the_readmes_command_start_on_their_gpus():
    """A batch of 1 would be refused by 8 or 16 replicas."""
    _, job = documents()
    [container] = job["spec"]["template"]["spec"]["containers"]
    script = container["args"][0].replace("\\\n", " ")
    gpus = int(container["resources"]["limits"]["nvidia.com/gpu"])
    arguments = script[script.index("trainer.main train") :].split()[2:]
    assert_trains(arguments, replicas=gpus * job["spec"]["completions"])
    pools = yaml.safe_load((ROOT / "deploy/vertex.yaml").read_text())["workerPoolSpecs"]
    gpus = sum(
        pool["replicaCount"] * pool["machineSpec"]["acceleratorCount"] for pool in pools
    )
    assert_trains(pools[0]["containerSpec"]["args"], replicas=gpus)
    readme = (ROOT / "README.md").read_text().replace("\\\n", " ")
    section = readme[readme.index("## GPUs") :].split("\n## ")[0]
    [*_, command] = [
        s for s in section.splitlines() if s.startswith("./launch.sh train")
    ]
    for gpus in (1, 2, 3, 8):
        arguments = [a for a in shlex.split(command, comments=True)[2:]]
        assert_trains(arguments, replicas=gpus)


def test_a_batch_of_one_is_refused_on_many_gpus():
    arguments = ["--config=configs/phc_u373.py", "--config.train.global_batch=1"]
    with pytest.raises(UserError, match="not divisible by 16 replicas"):
        assert_trains([*arguments, "--data=x", "--workdir=y"], replicas=16)


def test_kubernetes_script_makes_a_cluster(tmp_path):
    """Its own bash, with a `python` that says what it was given."""
    _, job = documents()
    [script] = job["spec"]["template"]["spec"]["containers"][0]["args"]
    fake = '#!/bin/sh\necho "$TF_CONFIG"\nprintf "%s\\n" "$@"\n'
    write_program(tmp_path / "python", fake)
    pod = [f"PATH={tmp_path}:/usr/bin:/bin", "WORKERS=3", "JOB_COMPLETION_INDEX=2"]
    done = process("env", "-i", *pod, "bash", "-c", script, check=True)
    config, *arguments = done.stdout.splitlines()
    environment = {"TF_CONFIG": config}
    assert strategy.read_cluster(environment) == (2, 3)
    hosts = [f"unet-train-{index}.unet-train:2222" for index in range(3)]
    assert strategy.read_hosts(environment) == hosts
    assert json.loads(config)["cluster"] == {"worker": hosts}
    assert arguments[:3] == ["-m", "trainer.main", "train"]
    known_flags(arguments[3:])


@pytest.mark.slow
def test_vertex_job():
    from google.cloud.aiplatform_v1.types import CustomJobSpec
    from google.protobuf import json_format

    content = yaml.safe_load((ROOT / "deploy/vertex.yaml").read_text())
    spec = json_format.ParseDict(content, CustomJobSpec.pb(CustomJobSpec()))
    chief, workers = spec.worker_pool_specs
    assert chief.replica_count == 1 and chief.container_spec == workers.container_spec
    known_flags(list(chief.container_spec.args))
    content["workerPoolSpecs"][0]["replicasCount"] = 1
    with pytest.raises(json_format.ParseError, match="replicasCount"):
        json_format.ParseDict(content, CustomJobSpec.pb(CustomJobSpec()))


def test_images_are_of_the_locked_versions():
    """Beam's worker image and its package are one version."""
    locked = (ROOT / "requirements/worker.txt").read_text()
    [version] = [
        line.split("==")[1]
        for line in locked.splitlines()
        if line.startswith("apache-beam==")
    ]
    image = f"FROM apache/beam_python3.11_sdk:{version}\n"
    assert image in (ROOT / "deploy/beam.Dockerfile").read_text()
    copied = [
        line.split()[1:-1]
        for name in ("beam", "train")
        for line in (ROOT / f"deploy/{name}.Dockerfile").read_text().splitlines()
        if line.startswith("COPY")
    ]
    for names in copied:
        assert all((ROOT / name).exists() for name in names), names
