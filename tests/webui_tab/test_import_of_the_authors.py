"""The page's import with the basis of the CelebBasis repository among the files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch


class ImportExport:
    """Records what it is given."""

    def __init__(self) -> None:
        self.given: list[tuple[str, str | None, bytes | None]] = []

    def import_file(self, _data: bytes, file_name: str, name: str | None, **more: Any) -> list[Any]:
        self.given.append((file_name, name, more["authors_basis"]))
        return []


@pytest.fixture(name="tab")
def fixture_tab(build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    tab = build("people", SimpleNamespace(import_export=ImportExport()))
    monkeypatch.setattr(tab, "show", lambda *_: {})
    return tab


def saved(content: Any, path: Path) -> str:
    torch.save(content, path)
    return str(path)


def test_the_basis_goes_with_the_coefficients(tab: Any, tmp_path: Path) -> None:
    basis = saved(torch.zeros(2, 513, 8), tmp_path / "celeb_basis.pt")
    coefficients = saved(torch.ones(2, 1, 512), tmp_path / "id_coefficient_000.pt")
    tab.import_people([basis, coefficients], "ada", False, "")
    content = (tmp_path / "celeb_basis.pt").read_bytes()
    assert tab.service.import_export.given == [("id_coefficient_000.pt", "ada", content)]
    tab.import_people([coefficients], "", False, "")
    assert tab.service.import_export.given[1:] == [("id_coefficient_000.pt", None, None)]


def test_the_basis_alone_is_not_a_person(tab: Any, tmp_path: Path) -> None:
    answer = tab.import_people([saved(torch.zeros(2, 513, 8), tmp_path / "celeb_basis.pt")], "", False, "")
    assert "import it together with its coefficient files" in answer[tab.import_note]
    assert answer[tab.import_files] is None
    assert not tab.service.import_export.given
