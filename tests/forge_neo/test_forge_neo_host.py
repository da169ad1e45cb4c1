"""The adapter in a real Forge Neo: every check of ``support.forge_checks``, all of a checkpoint in one process.

The miniature, and small ones of XL with random weights: one that predicts noise, one that predicts velocity on a schedule
of zero terminal SNR, and one for inpainting.

Run with ``CELEB_BASIS_FORGE_NEO`` set, and ``CELEB_BASIS_FORGE_NEO_PYTHON`` where it has no ``venv`` of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.forge import need_forge_neo
from support.forge_reports import CHECKS, reports_of

FAMILIES = ("miniature", "sdxl", "sdxl_v", "sdxl_inpaint")


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, str]]:
    """What failed in each check with a checkpoint."""
    return reports_of(need_forge_neo, tmp_path_factory)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str, check: str, reports: Callable[[str], dict[str, str]]) -> None:
    need_forge_neo()
    failed = reports(family)[check]
    assert not failed, failed
