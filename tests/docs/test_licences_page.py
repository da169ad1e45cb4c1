"""The page on licenses lists every package and model that this project uses."""

from __future__ import annotations

import importlib.metadata
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from celeb_basis.faces.packs import SOURCES
from miniature.face_pack import build

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "licences.md").read_text("utf-8")


def plain(name: str) -> str:
    """A package's name as the registry compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def rows() -> dict[str, str]:
    """License by package, from the tables."""
    found: dict[str, str] = {}
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 2:
            found |= {plain(re.sub(r"\(.*?\)", "", name).strip()): cells[1] for name in cells[0].split(",")}
    return found


def asked_for() -> set[str]:
    """Every package that pyproject.toml, the lists of requirements and the installer name."""
    lists = [*(ROOT / "requirements").glob("*.txt"), ROOT / "benchmarks" / "evidence" / "requirements.txt"]
    lines = [line for path in lists for line in path.read_text("utf-8").splitlines()]
    lines += re.findall(
        r'"([\w-]+(?:>=|==)[^"]*)"', (ROOT / "pyproject.toml").read_text("utf-8").split("[project.scripts]")[0]
    )
    lines += [wanted for _, _, wanted in runpy.run_path(str(ROOT / "install.py"), run_name="installer")["NEEDED"]]
    names = {re.split(r"[<>=\[ ]", line, maxsplit=1)[0] for line in lines if line and line[0] not in "#-"}
    return {plain(name) for name in names} - {"setuptools"}


def test_every_package_is_listed() -> None:
    wanted = asked_for()
    assert len(wanted) >= 25
    assert wanted - set(rows()) == set()


@pytest.mark.parametrize("name", ["numpy", "safetensors", "onnxruntime", "psutil", "hypothesis", "pytest", "tqdm"])
def test_a_licence_is_what_the_installed_package_says(name: str) -> None:
    about: Any = importlib.metadata.metadata(name)  # a message, whatever the declaration
    shown = " ".join(
        filter(None, [about.get("License-Expression"), about.get("License"), *about.get_all("Classifier", [])])
    )
    family = re.match(r"[A-Za-z]+", rows()[name])
    assert family is not None
    assert family[0].casefold() in shown.casefold()


def test_face_models_are_listed_with_their_terms() -> None:
    for source in SOURCES.values():
        assert f"`{source.name}`" in PAGE
        assert source.terms in PAGE
        assert f"{source.archive_bytes / 1e6:.0f} MB" in PAGE
    assert "non-commercial research purposes only" in PAGE
    assert all("non-commercial research purposes only" in source.licence for source in SOURCES.values())
    assert f"`{build.NPM_PACKAGE}` {build.NPM_VERSION}" in PAGE
    assert "`{}` {}".format(*build.PYPI_REQUIREMENT.split("==")) in PAGE


def test_the_project_itself_is_mit() -> None:
    assert (ROOT / "LICENSE").read_text("utf-8").startswith("MIT License")
    assert 'license = { text = "MIT" }' in (ROOT / "pyproject.toml").read_text("utf-8")
