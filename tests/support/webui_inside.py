"""Runs inside a WebUI's own Python: the host's modules without its page, and people to try in it."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path
from typing import Any

ON_THE_CPU = ("--use-cpu", "all", "--no-half", "--skip-torch-cuda-test")
QUIET = ("--skip-prepare-environment", "--skip-install", "--no-hashing", "--disable-console-progressbars")
OFFLINE = ("--no-download-sd-model", "--do-not-download-clip", "--skip-load-model-at-start")


def parsed_arguments() -> argparse.Namespace:
    """The arguments that the scripts run inside the host share."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoint", default="sd1")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def start(checkpoint: str, data: Path) -> Any:
    """The host's model of the small checkpoint called ``checkpoint``. What the host prints goes to the error output."""
    folder = Path(os.environ["CELEB_BASIS_WEBUI"])
    return start_with(folder / "models" / "Stable-diffusion" / f"{checkpoint}.safetensors", data)


def start_with(file: Path, data: Path) -> Any:
    """The host's model of the checkpoint in ``file``."""
    folder = Path(os.environ["CELEB_BASIS_WEBUI"])
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    places = ("--ckpt", str(file), "--ckpt-dir", str(file.parent), "--data-dir", str(data))
    sys.argv = ["webui.py", *ON_THE_CPU, *QUIET, *OFFLINE, *places]
    with contextlib.redirect_stdout(sys.stderr):
        from modules import initialize

        initialize.imports()
        initialize.check_versions()
        initialize.initialize()
        from modules import shared

        # The usual one makes SDXL fetch a file.
        shared.opts.data["show_progress_type"] = "Approx cheap"
        return shared.sd_model
