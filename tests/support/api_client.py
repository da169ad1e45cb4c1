"""FastAPI's client for tests, where it is installed."""

from __future__ import annotations

from typing import Any

import pytest


def need_test_client() -> Any:
    """The module; the test, or the whole file, is skipped where it is missing, or httpx, which it asks for."""
    missing: Any = (ImportError, RuntimeError)  # pytest takes several, and declares one
    return pytest.importorskip("fastapi.testclient", exc_type=missing)
