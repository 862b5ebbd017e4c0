"""Whatever is locked may be used and passed on."""

import importlib.metadata
import re
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.project import licences


def test_every_locked_package_has_a_licence_that_we_allow():
    names = licences.installed(licences.locked())
    assert len(names) > 200
    refused = {name: licences.licence(name) for name in names}
    refused = {k: v for k, v in refused.items() if not licences.is_allowed(v)}
    assert not refused, "read it, then allow it in licences.py or do without"


def test_workers_bring_no_tensorflow_and_the_trainer_does():
    base, cpu = licences.needed(set()), licences.needed({"cpu"})
    assert {"apache-beam", "numpy", "opencv-python-headless"} <= base
    assert "keras" not in base and {"keras", "jinja2"} <= cpu


def test_what_the_project_names_is_maintained():
    """A release within two years of the day when PyPI was asked."""
    named = map(Requirement, importlib.metadata.requires(licences.PROJECT))
    base = {canonicalize_name(each.name) for each in named if not each.marker}
    assert base <= licences.RELEASED.keys()
    assert min(licences.RELEASED.values()) > "2024-11-29"


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the page is 3.11's")
def test_the_page_is_that_of_the_lock():
    shown = re.findall(
        r"^\| ([a-z0-9.-]+) \| (\S+) \|", licences.PAGE.read_text(), re.M
    )
    found = {(name, version) for name, version, *_ in licences.rows()}
    assert set(shown) - {("package", "version")} == found, (
        "`python -m tests.project.licences` writes it again, after ./launch.sh lock"
    )


@pytest.mark.parametrize(
    "expression",
    ["GPL-3.0-only", "MIT OR GPL-2.0-or-later", "LGPL-2.1-only AND MIT", "", "unknown"],
)
def test_copyleft_and_nothing_are_refused(expression):
    assert not licences.is_allowed(expression)
