"""A real SD.Next for tests: ``CELEB_BASIS_SDNEXT`` names its folder, ``CELEB_BASIS_SDNEXT_PYTHON`` its Python (else that of
its ``venv``); without it, such tests are skipped. The miniature is put into the test's own data folder."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from support.webui import ROOT, WebUI

from celeb_basis.miniature import shipped_model


def need_sdnext() -> WebUI:
    """The SD.Next that the environment names; the test is skipped where there is none."""
    named = os.environ.get("CELEB_BASIS_SDNEXT")
    if not named:
        pytest.skip("needs an SD.Next: set CELEB_BASIS_SDNEXT to its folder")
    folder = Path(named).expanduser()
    python = Path(os.environ.get("CELEB_BASIS_SDNEXT_PYTHON") or folder / "venv" / "bin" / "python")
    assert python.is_file(), f"{python} is not there: set CELEB_BASIS_SDNEXT_PYTHON"
    return WebUI(folder, python)


def furnished(data: Path) -> Path:
    """The data folder with the miniature as a model of diffusers, chosen, and the extension in it."""
    models = data / "models" / "Diffusers"
    models.mkdir(parents=True)
    shutil.copytree(shipped_model(), models / "miniature")
    (data / "extensions").mkdir()
    (data / "extensions" / "celeb-basis").symlink_to(ROOT, target_is_directory=True)
    (data / "config.json").write_text(json.dumps({"sd_model_checkpoint": "miniature"}), encoding="utf-8")
    return data
