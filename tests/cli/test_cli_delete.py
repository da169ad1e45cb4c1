"""``delete`` says which paths go and which stay before anything is deleted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.people import person

from celeb_basis.identities.generated_files import RECORD, GeneratedFiles
from celeb_basis.identities.library import Library


@pytest.fixture
def ada(own_library: Path, tmp_path: Path) -> dict[str, Path]:
    library, picture, thesis = Library(own_library), tmp_path / "a.png", tmp_path / "thesis.txt"
    path = library.add(person("ada"))
    library.add(replace(person("ada"), name="carol"))
    for file in (picture, thesis):
        file.write_text("x")
    GeneratedFiles(library.folder).note([picture], "picture", ["ada"])
    record = library.folder / RECORD
    content = json.loads(record.read_text())
    content["files"].append({"path": str(thesis), "kind": "export", "people": ["ada"], "sha256": "0" * 64})
    record.write_text(json.dumps(content))
    return {"identity": path, "picture": picture, "thesis": thesis}


def check_list(text: str, ada: dict[str, Path]) -> None:
    lines = [line.strip() for line in text.splitlines()]
    assert str(ada["identity"]) in lines
    assert str(ada["picture"]) in lines
    (stays,) = (line for line in lines if line.startswith(f"stays: {ada['thesis']} ("))
    assert "left to you" in stays
    assert "the same person under another name: <carol>" in text


def test_a_dry_run_lists_all_and_deletes_nothing(celeb: Callable[..., Any], ada: dict[str, Path]) -> None:
    said = celeb("delete", "ada", "--dry-run")
    assert said.code == 0
    check_list(said.out, ada)
    assert all(path.exists() for path in ada.values())
    answer = celeb("delete", "ada", "--dry-run", "--json").json
    assert {str(path) for path in (ada["picture"],)} <= set(answer["goes"])
    assert [one["path"] for one in answer["stays"]] == [str(ada["thesis"])]


def test_yes_lists_the_paths_as_well(
    celeb: Callable[..., Any], ada: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("celeb_basis.identities.deletion.delete_person", stopped)
        first = celeb("delete", "ada", "--yes")
    assert all(path.exists() for path in ada.values()), "they are listed before"
    check_list(first.err, ada)
    said = celeb("delete", "ada", "--yes")
    check_list(said.err, ada)
    assert said.code == 1, "a file stays"
    assert not ada["picture"].exists()
    assert ada["thesis"].exists()
    assert f"Still there: {ada['thesis']}" in said.out
    assert Library(ada["identity"].parent).names() == ("carol",)
