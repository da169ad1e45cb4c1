"""The command line with a small model, as its own tests have it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any


def _fixtures_of(room: str) -> Any:
    path = Path(__file__).resolve().parents[1] / room / "conftest.py"
    spec = importlib.util.spec_from_file_location(f"consent_{room}_fixtures", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_cli = _fixtures_of("cli")

cli_model, parts, own_library, celeb = _cli.cli_model, _cli.parts, _cli.own_library, _cli.celeb
