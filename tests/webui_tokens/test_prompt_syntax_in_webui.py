"""In a real WebUI: every form of prompt, clip skip, LoRA and hypernetworks, against vectors placed by hand; whole pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.webui import need_webui


@pytest.mark.parametrize("checkpoint", ["sd1", "sd2v", "sdxl"])
def test_conditionings_and_pictures_are_those_of_vectors_placed_by_hand(tmp_path: Path, checkpoint: str) -> None:
    webui = need_webui(checkpoint)
    report = webui.answer_of("support.webui_syntax", "--checkpoint", checkpoint, data=tmp_path, timeout=1200)
    assert report["other_conditionings"] == []
    assert report["other_pictures"] == []
    # The comparison means something: vectors, networks and clip skip all make another picture.
    assert report["cases"] == 44
    assert report["same_as_text"] == []
    assert report["without_effect"] == []
    assert report["layers"] == report["applied"] > 20
    # Of OpenCLIP's encoder alone, the host takes the same layer whatever clip skip says.
    assert report["clip_skip_matters"] == (1 if checkpoint == "sd2v" else 3)
