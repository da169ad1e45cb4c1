"""The service around a toy model, as the API's own tests have it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_SPEC = importlib.util.spec_from_file_location(
    "webui_api_fixtures", Path(__file__).resolve().parents[1] / "webui_api" / "conftest.py"
)
assert _SPEC is not None
assert _SPEC.loader is not None
_FIXTURES = importlib.util.module_from_spec(_SPEC)
sys.modules["webui_api_fixtures"] = _FIXTURES
_SPEC.loader.exec_module(_FIXTURES)

program, service = _FIXTURES.program, _FIXTURES.service
