"""The adapter in a real WebUI: every check of ``support.webui_checks_*`` on small checkpoints of each family.

Run with ``CELEB_BASIS_WEBUI`` set. The checks run in the WebUI's own Python, all of a checkpoint in one process.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.webui import need_webui
from support.webui_checks import PLAIN, SWITCHED

WITH_FLAGS = {"medvram_holds_all_on_the_device": "--medvram", "lowvram_is_refused": "--lowvram"}
ELSEWHERE = {"inpainting_is_learned_on": "sd2inpaint"}
IN_PLAIN_HOST = [name for name in SWITCHED if name not in {*WITH_FLAGS, *ELSEWHERE}]

Run = tuple[str, str, tuple[str, ...]]
"""Checkpoint, flags of the host, and the checks."""


@pytest.fixture(scope="session")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Run], dict[str, str]]:
    """What failed in a run of checks; each run is made once."""
    known: dict[Run, dict[str, str]] = {}

    def report(run: Run) -> dict[str, str]:
        checkpoint, flags, checks = run
        webui = need_webui(checkpoint)
        if run not in known:
            data = tmp_path_factory.mktemp(f"webui-{checkpoint}")
            options = ("--checkpoint", checkpoint, f"--flags={flags}", *checks)
            known[run] = webui.answer_of("support.webui_checks", *options, data=data, timeout=1800)
        return known[run]

    return report


@pytest.mark.parametrize("check", PLAIN)
@pytest.mark.parametrize("checkpoint", ["sd1", "sd2v", "sdxl"])
def test_every_family(checkpoint: str, check: str, reports: Callable[[Run], dict[str, str]]) -> None:
    failed = reports((checkpoint, "", tuple(PLAIN)))[check]
    assert not failed, failed


@pytest.mark.parametrize("check", IN_PLAIN_HOST)
def test_whatever_the_host_has_on(check: str, reports: Callable[[Run], dict[str, str]]) -> None:
    need_webui("sdxl")
    failed = reports(("sd1", "", tuple(IN_PLAIN_HOST)))[check]
    assert not failed, failed


@pytest.mark.parametrize(
    ("checkpoint", "check"), [("sd1", "medvram_holds_all_on_the_device"), ("sdxl", "medvram_holds_all_on_the_device")]
)
def test_medvram(checkpoint: str, check: str, reports: Callable[[Run], dict[str, str]]) -> None:
    failed = reports((checkpoint, WITH_FLAGS[check], (check,)))[check]
    assert not failed, failed


def test_lowvram_is_refused_in_words(reports: Callable[[Run], dict[str, str]]) -> None:
    failed = reports(("sd1", "--lowvram", ("lowvram_is_refused",)))["lowvram_is_refused"]
    assert not failed, failed


def test_inpainting_is_learned_on(reports: Callable[[Run], dict[str, str]]) -> None:
    failed = reports(("sd2inpaint", "", ("inpainting_is_learned_on",)))["inpainting_is_learned_on"]
    assert not failed, failed
