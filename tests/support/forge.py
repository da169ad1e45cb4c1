"""A real Forge for tests: named by ``CELEB_BASIS_FORGE``, run with its own Python; without it, such tests are skipped.

``CELEB_BASIS_FORGE`` is Forge's folder, ``CELEB_BASIS_FORGE_PYTHON`` its interpreter (else that of its ``venv``). Nothing in
that folder is changed: every test has a data folder of its own, with the miniature in it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from celeb_basis.miniature.for_webui import put_miniature
from celeb_basis.miniature.shipped import MODEL, NAME

ROOT = Path(__file__).resolve().parents[2]
KNOWS_MINIATURE = ROOT / "tests" / "support" / "forge_miniature"
"""The extension with which Forge's loader knows the miniature."""


@dataclass(frozen=True)
class Forge:
    """Where Forge is, and what runs it."""

    folder: Path
    python: Path

    def answer_of(self, module: str, *arguments: str, data: Path, timeout: float = 600) -> Any:
        """What ``python -m module arguments`` prints as its last line, as JSON, run with Forge's Python."""
        command = [str(self.python), "-m", module, "--data", str(data), *arguments]
        environment = self.environment(data) | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
        if done.returncode:
            raise AssertionError(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
        return json.loads(done.stdout.strip().splitlines()[-1])

    def environment(self, data: Path) -> dict[str, str]:
        """What Forge runs in: offline, on the CPU, with a cache of its own."""
        environment = dict(os.environ)
        environment.pop("PYTHONPATH", None)
        return environment | {
            "CELEB_BASIS_FORGE": str(self.folder),
            "CELEB_BASIS_CACHE": str(data / "cache"),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "GRADIO_ANALYTICS_ENABLED": "False",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONDONTWRITEBYTECODE": "1",
        }


def need_forge() -> Forge:
    """The Forge that the environment names; the test is skipped where there is none."""
    named = os.environ.get("CELEB_BASIS_FORGE")
    if not named:
        pytest.skip("needs a Forge: set CELEB_BASIS_FORGE to its folder")
    folder = Path(named).expanduser()
    python = Path(os.environ.get("CELEB_BASIS_FORGE_PYTHON") or folder / "venv" / "bin" / "python")
    assert python.is_file(), f"{python} is not there: set CELEB_BASIS_FORGE_PYTHON"
    return Forge(folder, python)


def with_miniature(data: Path) -> Path:
    """``data`` as a data folder of Forge's, in which the miniature is the one checkpoint."""
    models = data / "models" / "Stable-diffusion"
    models.mkdir(parents=True, exist_ok=True)
    put_miniature(models)
    configs = data / "miniature-configs"
    shutil.copytree(MODEL, configs, ignore=shutil.ignore_patterns("*.safetensors", "tokenizer"), dirs_exist_ok=True)
    # Forge's older transformers wants the vocabulary as two files.
    shutil.copytree(models / f"{NAME}-text-encoder", configs / "tokenizer", dirs_exist_ok=True)
    (data / "extensions").mkdir(exist_ok=True)
    (data / "extensions" / KNOWS_MINIATURE.name).symlink_to(KNOWS_MINIATURE, target_is_directory=True)
    return data
