"""The checks of ``support.forge_checks``, all of a checkpoint in one process of a real Forge."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support.forge import Forge, with_miniature, with_small

CHECKS = re.findall(r"^def check_(\w+)", Path(__file__).with_name("forge_checks.py").read_text("utf-8"), re.M)


def reports_of(needed: Callable[[], Forge], folders: pytest.TempPathFactory) -> Callable[[str], dict[str, str]]:
    """A function that returns what failed in each check with a checkpoint: an empty text for nothing.

    Args:
        needed: Returns the Forge; the test is skipped where there is none.
        folders: Makes a data folder for each checkpoint.
    """

    @functools.cache
    def report(family: str) -> dict[str, str]:
        forge, data = needed(), folders.mktemp(family)
        made = with_miniature(data) if family == "miniature" else with_small(data, family)
        try:
            answer: dict[str, str] = forge.answer_of("support.forge_checks", *CHECKS, data=made, timeout=1800)
        except AssertionError as error:  # it did not start, and would not for the next check
            return dict.fromkeys(CHECKS, str(error))
        return answer

    return report
