"""The adapter in a real Forge with the miniature: every check of ``support.forge_checks``, all in one process.

Run with ``CELEB_BASIS_FORGE`` set, and ``CELEB_BASIS_FORGE_PYTHON`` where Forge has no ``venv`` of its own.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.forge import need_forge, with_miniature

CHECKS = re.findall(
    r"^def check_(\w+)", Path(__file__).parents[1].joinpath("support/forge_checks.py").read_text(), re.M
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What failed in each check."""
    forge = need_forge()
    data = with_miniature(tmp_path_factory.mktemp("forge"))
    answer: dict[str, str] = forge.answer_of("support.forge_checks", *CHECKS, data=data, timeout=1800)
    return answer


@pytest.mark.parametrize("check", CHECKS)
def test_with_the_miniature(check: str, report: dict[str, str]) -> None:
    assert not report[check], report[check]
