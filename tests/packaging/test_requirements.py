"""The lists of tested versions pin each package once for every supported Python, within pyproject.toml's bounds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from setuptools.config.pyprojecttoml import read_configuration  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
PROJECT = read_configuration(str(ROOT / "pyproject.toml"))["project"]


def pins(name: str, python: str) -> dict[str, str]:
    """Versions by package that pip installs from a list on ``python``; fails for a second pin of a package."""
    found: dict[str, str] = {}
    for line in (ROOT / "requirements" / name).read_text("utf-8").splitlines():
        if line.startswith("-r "):
            found |= pins(line[3:], python)
        elif line and not line.startswith("#"):
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate({"python_version": python}):
                (pin,) = wanted.specifier
                assert pin.operator == "=="
                assert canonicalize_name(wanted.name) not in found, f"{line} is a second pin on Python {python}"
                found[canonicalize_name(wanted.name)] = pin.version
    return found


@pytest.mark.parametrize("python", PYTHONS)
def test_every_package_has_one_version(python: str) -> None:
    newest = pins("test.txt", PYTHONS[-1])
    assert set(pins("test.txt", python)) == set(newest)
    extras = [*PROJECT["optional-dependencies"]["test"], *PROJECT["optional-dependencies"]["ray"]]
    for name, wanted in (("run.txt", PROJECT["dependencies"]), ("test.txt", [*PROJECT["dependencies"], *extras])):
        pinned = pins(name, python)
        for requirement in map(Requirement, wanted):
            version = pinned[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), f"{requirement} does not allow {version}"


def test_the_oldest_python_is_the_declared_one() -> None:
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    bootstrap = (ROOT / "bootstrap.py").read_text("utf-8")
    assert f"OLDEST_PYTHON = ({PYTHONS[0].replace('.', ', ')})" in bootstrap


def test_the_makefile_has_every_task() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    bootstrap = (ROOT / "bootstrap.py").read_text("utf-8")
    (targets,) = re.findall(r"^TARGETS = (.*)$", makefile, re.MULTILINE)
    tasks = re.findall(r'^    "([\w-]+)": \["-m"', bootstrap, re.MULTILINE)
    assert targets.split() == tasks
