"""Steps, validation and exports as TensorFlow's CUDA wheel would run them on GPUs.

Found without a GPU (gpu/placement.py): every op has a kernel, nothing crosses between
host and device inside a step, few ops and collectives a step. docs/training.md explains
the budgets. Each precision, optimiser and number of replicas and workers is in some
case; `python -m tests.trainer.devices.gpu.audit` looks at any other. Replicas of one
host sum by "ring" here, being processors; for GPUs TensorFlow itself chooses NCCL.
"""

import json
import os

import pytest

from tests.cloud.environment import cuda_wheel
from tests.commands import PYTHON, ROOT, started
from tests.ports import cluster_of

# Ops for each replica and step. Compiled, they are the input, two functions and sums.
COMPILED_OPS = 25
OPS = {"sgd": 1300, "adamw": 2200}  # launched one by one
# The paper's network: 31,030,658 gradients and the loss in packs of 32 MiB, of which
# the two largest layers' (37.7 and 18.9 MB) are more than half.
PAPER_PACKS, PAPER_MB = 5, 4 * 31_030_659 / 1e6
STEPS = (
    {"precision": "float32", "xla": False},
    {"precision": "mixed_bfloat16", "optimizer": "adamw", "replicas": 2, "xla": False},
    {"precision": "mixed_float16", "optimizer": "adamw", "xla": False},
    {"precision": "mixed_bfloat16", "replicas": 2, "width": 64},
    {"precision": "mixed_float16", "optimizer": "adamw", "accumulate": 2},
)
WORKERS = {"precision": "mixed_bfloat16", "optimizer": "adamw"}
SEGMENTING = (
    {"what": "validation", "precision": "mixed_bfloat16", "replicas": 2},
    {"what": "export", "signature": "serving_default"},
    {"what": "export", "signature": "image_tta"},
    {"what": "export", "signature": "tile"},
)
# What reads the input, on the host: strings live nowhere else.
DECODING = {
    "tf_example": {
        "Const",
        "ParseExampleV2",
        "TensorListFromTensor",
        "TensorListGetItem",
        "TensorListSetItem",
        "TensorListStack",
        "DecodeRaw",
    },
    "image_bytes": {
        "Add",
        "DecodeRaw",
        "StaticRegexFullMatch",
        "StaticRegexReplace",
        "Const",
        "DecodeJpeg",
        "DecodePng",
        "Equal",
        "Substr",
        "TensorListFromTensor",
        "TensorListGetItem",
    },
}


def audits(cases, environment=()):
    """A process that audits some cases."""
    path = os.pathsep.join([str(cuda_wheel()), str(ROOT)])
    command = [PYTHON, "-m", "tests.trainer.devices.gpu.audit"]
    own = {"PYTHONPATH": path, **dict(environment)}
    return started(*command, *map(json.dumps, cases), env=own)


def reports(process, cases) -> list[dict]:
    said, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors
    found = [json.loads(line) for line in said.splitlines()]
    assert len(found) == len(cases)
    return found


@pytest.fixture(scope="module")
def found() -> dict[str, dict]:
    """Reports of all cases on one host, by the case."""
    signatures = [{"what": "export", "signature": name} for name in DECODING]
    cases = [*STEPS, *SEGMENTING, *signatures]
    return {
        json.dumps(case): report
        for case, report in zip(cases, reports(audits(cases), cases), strict=True)
    }


def name_of(case) -> str:
    return " ".join(map(str, case.values()))


def assert_collectives(report, *, packs, replicas=1, hint, megabytes=None):
    assert len(report["collectives"]) == packs * replicas
    for dtype, wanted, _ in report["collectives"]:
        assert dtype == "float32" and wanted == hint
    if megabytes:
        sent = sum(size for _, _, size in report["collectives"])
        assert sent == pytest.approx(megabytes * replicas, rel=1e-3)


@pytest.mark.long
@pytest.mark.parametrize("case", STEPS, ids=name_of)
def test_a_step_stays_on_the_gpu(found, case):
    report = found[json.dumps(case)]
    assert not report["missing"]
    assert not report["crossings"]
    replicas, compiled = case.get("replicas", 1), case.get("xla", True)
    budget = COMPILED_OPS if compiled else OPS[case.get("optimizer", "sgd")]
    budget *= case.get("accumulate", 1)
    assert sum(report["ops"].values()) <= budget * replicas
    assert report["compiled"] == (2 * replicas if compiled else 0)
    if replicas == 1:
        assert not report["collectives"]
    elif case.get("width") == 64:
        more = {"packs": PAPER_PACKS, "megabytes": PAPER_MB}
        assert_collectives(report, replicas=replicas, hint="ring", **more)
    else:
        assert_collectives(report, packs=1, replicas=replicas, hint="ring")


@pytest.mark.long
def test_two_workers_sum_by_nccl():
    """Gradients with the loss, and the stops that workers were asked for; no more."""
    processes = [audits([WORKERS], worker) for worker in cluster_of(2)]
    for process in processes:
        [report] = reports(process, [WORKERS])
        assert not report["missing"] and not report["crossings"]
        assert_collectives(report, packs=2, hint="nccl")
        assert report["collectives"][0][2] < 1e-5  # MB: the stops, once a call
        assert sum(report["ops"].values()) <= COMPILED_OPS


@pytest.mark.long
@pytest.mark.parametrize("case", SEGMENTING, ids=name_of)
def test_no_tile_waits_for_the_host(found, case):
    """Only an image's sizes go to the device, before its first tile."""
    report = found[json.dumps(case)]
    assert {text.split()[:2] == ["Const", "string"] for text in report["missing"]} <= {
        True  # of Assert's words
    }
    # In a loop over the eight symmetries, each is an image.
    loops = 1 if case.get("signature") == "image_tta" else 0
    for text in report["crossings"]:
        assert text.startswith("host to device: "), text
        consumer = text.split(" to ")[-1]
        assert consumer.count("while/body/") <= loops, text
    assert len(report["crossings"]) <= 8 * case.get("replicas", 1)


@pytest.mark.long
@pytest.mark.parametrize("signature", DECODING)
def test_only_decoding_has_no_kernel(found, signature):
    report = found[json.dumps({"what": "export", "signature": signature})]
    missing = {text.split()[0] for text in report["missing"]}
    assert missing and missing <= DECODING[signature]
