"""The adapter in a real Forge: every check of ``support.forge_checks``, all of a checkpoint in one process.

The miniature, and small ones of Stable Diffusion 2 (v-prediction) and XL, also for inpainting, with random weights.

Run with ``CELEB_BASIS_FORGE`` set, and ``CELEB_BASIS_FORGE_PYTHON`` where Forge has no ``venv`` of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.forge import need_forge
from support.forge_reports import CHECKS, reports_of

FAMILIES = ("miniature", "sd2", "sdxl", "sdxl_inpaint")


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, str]]:
    """What failed in each check with a checkpoint."""
    return reports_of(need_forge, tmp_path_factory)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str, check: str, reports: Callable[[str], dict[str, str]]) -> None:
    need_forge()
    failed = reports(family)[check]
    assert not failed, failed
