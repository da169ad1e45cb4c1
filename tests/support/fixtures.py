"""Fixtures shared by many tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the package's cache at a fresh folder, so that no test reads or writes the user's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CELEB_BASIS_CACHE", str(folder))
    return folder
