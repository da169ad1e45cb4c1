"""The extension's entry point: the WebUI runs every file of this folder at its start."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parents[1])
# First, so that another copy of the package in the host's environment is not imported instead; and for good, because the
# host removes its own entry once the scripts are loaded.
if sys.path[:1] != [_ROOT]:
    sys.path[:] = [_ROOT, *(entry for entry in sys.path if entry != _ROOT)]

try:
    from celeb_basis.webui.extension import register

    register(__file__)
except Exception:
    logging.getLogger("celeb_basis").exception(
        "The extension Celeb Basis could not be loaded; the WebUI goes on without"
    )
