"""What the extension adds to the start of a real WebUI. Its seconds are measured by ``benchmarks.webui``."""

from __future__ import annotations

from pathlib import Path

from support.webui import need_webui


def test_the_start_imports_nothing_heavy(tmp_path: Path) -> None:
    found = need_webui("sd1").answer_of("support.webui_start_share", data=tmp_path)
    assert found["tabs"] == ["Celeb Basis"]
    assert found["routes"] >= 20
    assert found["routes_without_api"] == 0
    assert found["heavy"] == [], "imported when they are first needed"
