"""Running checks inside a real program, and the errors that they raised."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def failures(checks: Mapping[str, Callable[[Path], Any]], data: Path) -> dict[str, str]:
    """Run every check; by name what it raised, or an empty text. One that fails keeps no other from running."""
    report = {}
    for name, check in checks.items():
        try:
            check(data)
            report[name] = ""
        except Exception:
            report[name] = traceback.format_exc()
    return report
