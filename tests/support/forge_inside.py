"""Runs inside Forge's own Python: its modules without its page, and the miniature loaded."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

from support.forge_cpu import stay_on_cpu

FLAGS = ("--always-cpu", "--skip-torch-cuda-test", "--skip-install", "--disable-console-progressbars")


def start(data: Path) -> Any:
    """Forge's model of the checkpoint in ``data``. What Forge prints goes to the error output."""
    folder = Path(os.environ["CELEB_BASIS_FORGE"])
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.argv = ["webui.py", *FLAGS, "--data-dir", str(data)]
    with contextlib.redirect_stdout(sys.stderr):
        stay_on_cpu(folder)
        from modules_forge.initialization import initialize_forge

        initialize_forge()
        from modules import initialize

        initialize.imports()
        initialize.initialize()
        from modules import shared

        # The usual one makes SDXL fetch a file.
        shared.opts.data["show_progress_type"] = "Approx cheap"
        from modules_forge.main_entry import refresh_model_loading_parameters

        refresh_model_loading_parameters()
        from celeb_basis.hosts.forge.model import ForgeCheckpoint, load_selected_checkpoint

        load_selected_checkpoint()
        return ForgeCheckpoint.current().model
