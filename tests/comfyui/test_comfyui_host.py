"""The host in a real ComfyUI: every check of ``support.comfyui_checks_*``, all of a checkpoint in one process.

The miniature, and small ones with random weights: Stable Diffusion 2 (v-prediction), XL, and 1 for inpainting.

Run with ``CELEB_BASIS_COMFYUI`` set, and ``CELEB_BASIS_COMFYUI_PYTHON`` where ComfyUI has no ``venv`` of its own.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support.comfyui import need_comfyui, with_models

CHECKS = [
    check
    for path in sorted(Path(__file__).parents[1].joinpath("support").glob("comfyui_checks_*.py"))
    for check in re.findall(r"^def check_(\w+)", path.read_text("utf-8"), re.M)
]
OTHER = {"miniature": "sd2", "sd2": "miniature", "sdxl": "sd2", "sd1_inpaint": "sd2"}
"""A second checkpoint, whose parts do not belong to the first."""


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, str]]:
    """What failed in each check with a checkpoint."""

    @functools.cache
    def report(family: str) -> dict[str, str]:
        base = with_models(tmp_path_factory.mktemp(family), family, OTHER[family])
        answer: dict[str, str] = need_comfyui().answer_of(
            "support.comfyui_checks", "--checkpoint", family, *CHECKS, base=base
        )
        return answer

    return report


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("family", sorted(OTHER))
def test_every_family(family: str, check: str, reports: Callable[[str], dict[str, str]]) -> None:
    need_comfyui()
    failed = reports(family)[check]
    assert not failed, failed
