"""The root's ``__init__.py`` is for ComfyUI alone: tests do not see the folder above the repository."""

from __future__ import annotations

import sys
from pathlib import Path


def test_the_folder_above_is_not_on_the_path() -> None:
    assert str(Path(__file__).resolve().parents[3]) not in sys.path
