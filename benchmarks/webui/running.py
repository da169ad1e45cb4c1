"""Modules run by a WebUI's own Python, that answer with JSON in their last line."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from typing import Any

from benchmarks.workbench import ROOT


def answer_of(module: str, *arguments: str) -> Any:
    """What ``module`` answers, in a data folder of its own.

    Raises: :class:`SystemExit` with the end of what it said if it fails.
    """
    folder = os.path.expanduser(os.environ["CELEB_BASIS_WEBUI"])
    python = os.environ.get("CELEB_BASIS_WEBUI_PYTHON") or os.path.join(folder, "venv", "bin", "python")
    with tempfile.TemporaryDirectory() as data:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
        environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "CELEB_BASIS_CACHE": f"{data}/cache"}
        command = [python, "-m", module, *arguments, "--data", data]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-6000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
