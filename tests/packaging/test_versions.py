"""The version stands in one place, and is shown the same everywhere."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

from celeb_basis import __version__

ROOT = Path(__file__).resolve().parents[2]


def test_it_is_a_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_nothing_else_states_one() -> None:
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert 'dynamic = ["version"]' in project
    assert 'version = { attr = "celeb_basis.__version__" }' in project
    about = configparser.ConfigParser()
    about.read(ROOT / "metadata.ini")
    assert about.get("Extension", "Version", fallback=__version__) == __version__
    found = [
        str(path.relative_to(ROOT))
        for path in [*ROOT.joinpath("celeb_basis").rglob("*.py"), *ROOT.glob("*.py"), *ROOT.glob("*/*.js")]
        if f'"{__version__}"' in path.read_text("utf-8")
    ]
    assert found == ["celeb_basis/__init__.py"]


def test_what_setuptools_builds_has_it(tmp_path: Path) -> None:
    """setuptools reads the attribute without importing what the package needs."""
    setuptools = pytest.importorskip("setuptools")
    assert setuptools
    script = (
        "from setuptools.config.pyprojecttoml import read_configuration as read; "
        f"print(read({str(ROOT / 'pyproject.toml')!r})['project']['version'])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == __version__


def test_the_command_line_says_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "celeb_basis", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"celeb-basis {__version__}"


def test_the_page_says_it() -> None:
    from celeb_basis.webui.ui.markup import version

    assert f"Celeb Basis {__version__}" in version()
