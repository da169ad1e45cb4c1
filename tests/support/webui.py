"""A real WebUI for tests: named by ``CELEB_BASIS_WEBUI``, run with its own Python; without it, such tests are skipped.

``CELEB_BASIS_WEBUI`` is the WebUI's folder, ``CELEB_BASIS_WEBUI_PYTHON`` its interpreter (else that of its ``venv``).
Small checkpoints ``sd1``, ``sd2v`` and ``sdxl`` lie in its ``models/Stable-diffusion``.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class WebUI:
    """Where the WebUI is, and what runs it."""

    folder: Path
    python: Path

    def checkpoint(self, name: str) -> Path:
        return self.folder / "models" / "Stable-diffusion" / f"{name}.safetensors"

    def environment(self, data: Path) -> dict[str, str]:
        """The environment in which it is started: offline, on the processor, with a cache of its own."""
        return {
            **os.environ,
            "CELEB_BASIS_WEBUI": str(self.folder),
            "CELEB_BASIS_CACHE": str(data / "cache"),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "GRADIO_ANALYTICS_ENABLED": "False",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def answer_of(self, module: str, *arguments: str, data: Path, timeout: float = 600) -> Any:
        """What ``python -m module arguments`` prints as its last line, as JSON, run with the WebUI's Python."""
        environment = self.environment(data)
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        command = [str(self.python), "-m", module, "--data", str(data), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
        if done.returncode:
            raise AssertionError(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
        return json.loads(done.stdout.strip().splitlines()[-1])


def find_webui() -> WebUI | None:
    """The WebUI that the environment names, or ``None``."""
    named = os.environ.get("CELEB_BASIS_WEBUI")
    if not named:
        return None
    folder = Path(named).expanduser()
    python = Path(os.environ.get("CELEB_BASIS_WEBUI_PYTHON") or folder / "venv" / "bin" / "python")
    return WebUI(folder, python)


def need_webui(*checkpoints: str) -> WebUI:
    """The WebUI that the environment names, with these checkpoints; the test is skipped where there is none."""
    webui = find_webui()
    if webui is None:
        pytest.skip("needs a WebUI: set CELEB_BASIS_WEBUI to its folder")
    assert webui.python.is_file(), f"{webui.python} is not there: set CELEB_BASIS_WEBUI_PYTHON"
    for name in checkpoints:
        if not webui.checkpoint(name).is_file():
            pytest.skip(f"needs the checkpoint {webui.checkpoint(name)}")
    return webui
