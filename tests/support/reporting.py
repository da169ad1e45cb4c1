"""Running checks inside a real program, and the errors that they raised."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Given = TypeVar("Given")


def failures(checks: Mapping[str, Callable[[Given], Any]], given: Given) -> dict[str, str]:
    """Run every check; by name what it raised, or an empty text. One that fails keeps no other from running."""
    report = {}
    for name, check in checks.items():
        try:
            check(given)
            report[name] = ""
        except Exception:
            report[name] = traceback.format_exc()
    return report
