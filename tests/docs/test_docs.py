"""The files and links that the documents name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "celeb_basis"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_and_links_exist(document: Path) -> None:
    text = document.read_text("utf-8")
    for name in re.findall(r"`([\w/]+(?:\.(?:py|js|css|txt|ini|toml)|/))`", text):
        places = (ROOT / name, ROOT / "celeb_basis" / name, document.parent / name)
        # A name without its folder belongs to the package that the sentence is about.
        found = any(place.exists() for place in places) or ("/" not in name[:-1] and any(PACKAGE.rglob(name)))
        assert found, f"{name} is not there"
    for module in re.findall(r"python -m ((?:celeb_basis|miniature|benchmarks)[\w.]*)", text):
        path = ROOT.joinpath(*module.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), f"{module} cannot be run"
    for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
        assert (document.parent / link).exists(), f"{link} is not there"
