"""The files and links that the documents name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_and_links_exist(document: Path) -> None:
    text = document.read_text("utf-8")
    for name in re.findall(r"`([\w/]+(?:\.(?:py|js|css|txt|ini|toml)|/))`", text):
        places = (ROOT / name, ROOT / "celeb_basis" / name, document.parent / name)
        assert any(place.exists() for place in places), f"{name} is not there"
    for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
        assert (document.parent / link).exists(), f"{link} is not there"
