"""The door for the WebUI, which runs every file of this folder at its start: all else is in the package beside it."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parents[1])
# First, so that another copy of the package, installed into the host's environment, is not taken; and for good: the host
# takes its own entry away when the scripts have been loaded.
if sys.path[:1] != [_ROOT]:
    sys.path[:] = [_ROOT, *(entry for entry in sys.path if entry != _ROOT)]

try:
    from celeb_basis.webui.extension import register

    register(__file__)
except Exception:
    logging.getLogger("celeb_basis").exception(
        "The extension Celeb Basis could not be loaded; the WebUI goes on without"
    )
