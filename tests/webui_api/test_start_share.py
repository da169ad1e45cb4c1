"""What the extension adds to the start of a real WebUI; skipped where there is none."""

from __future__ import annotations

from pathlib import Path

from support.webui import need_webui

LIMIT = 0.3
"""Seconds of processor time: the clock's would be other programs' too."""


def test_the_start_is_hardly_longer(tmp_path: Path) -> None:
    told = need_webui("sd1").answer_of("support.webui_start_share", data=tmp_path)
    assert told["tabs"] == ["Celeb Basis"]
    assert told["routes"] >= 20
    assert told["routes_without_api"] == 0
    assert told["heavy"] == [], "imported when they are first needed"
    assert told["processor"] <= LIMIT, told["spent"]
