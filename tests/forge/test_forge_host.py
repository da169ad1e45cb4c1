"""The adapter in a real Forge: every check of ``support.forge_checks``, all of a checkpoint in one process.

The miniature, and small ones of Stable Diffusion 2 (v-prediction) and XL with random weights.

Run with ``CELEB_BASIS_FORGE`` set, and ``CELEB_BASIS_FORGE_PYTHON`` where Forge has no ``venv`` of its own.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support.forge import need_forge, with_miniature, with_small

CHECKS = re.findall(
    r"^def check_(\w+)", Path(__file__).parents[1].joinpath("support/forge_checks.py").read_text(), re.M
)


FAMILIES = ("miniature", "sd2", "sdxl")


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, str]]:
    """What failed in each check with a checkpoint."""

    @functools.cache
    def report(family: str) -> dict[str, str]:
        forge, data = need_forge(), tmp_path_factory.mktemp(family)
        made = with_miniature(data) if family == "miniature" else with_small(data, family)
        answer: dict[str, str] = forge.answer_of("support.forge_checks", *CHECKS, data=made, timeout=1800)
        return answer

    return report


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str, check: str, reports: Callable[[str], dict[str, str]]) -> None:
    need_forge()
    failed = reports(family)[check]
    assert not failed, failed
