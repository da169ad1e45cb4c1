"""A real reForge for tests: ``CELEB_BASIS_REFORGE`` names its folder, ``CELEB_BASIS_REFORGE_PYTHON`` its Python (else that
of its ``venv``); without it, such tests are skipped. The small checkpoint is written into the test's own data folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.webui import ROOT, WebUI

from miniature.small_models.for_webui import put_miniature

SMALL = ROOT / "tests" / "support" / "reforge_small"
"""The extension with which reForge reads checkpoints that are smaller than those on its list."""


def need_reforge() -> WebUI:
    """The reForge that the environment names; the test is skipped where there is none."""
    named = os.environ.get("CELEB_BASIS_REFORGE")
    if not named:
        pytest.skip("needs a reForge: set CELEB_BASIS_REFORGE to its folder")
    folder = Path(named).expanduser()
    python = Path(os.environ.get("CELEB_BASIS_REFORGE_PYTHON") or folder / "venv" / "bin" / "python")
    assert python.is_file(), f"{python} is not there: set CELEB_BASIS_REFORGE_PYTHON"
    return WebUI(folder, python)


def furnished(data: Path) -> Path:
    """The data folder with the miniature and both extensions in it."""
    checkpoints = data / "models" / "Stable-diffusion"
    checkpoints.mkdir(parents=True)
    put_miniature(checkpoints)
    (data / "extensions").mkdir()
    (data / "extensions" / "celeb-basis").symlink_to(ROOT, target_is_directory=True)
    (data / "extensions" / "small-checkpoints").symlink_to(SMALL, target_is_directory=True)
    return data
