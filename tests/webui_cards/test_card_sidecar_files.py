"""Sidecar files of an identity's card go with the identity, and no other identity's do."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from support.people import PNG, person

from celeb_basis.identities.library import Library, move_sidecars, sidecar_files

OTHERS = ("person10.preview.png", "person1.txt", "person1.preview.safetensors", "person1.old.json", "person.json")


@pytest.fixture
def library(tmp_path: Path) -> Library:
    library = Library(tmp_path / "people")
    library.add(person("person1"))
    for name in ("person1.json", "person1.preview.png", "person1.jpg", *OTHERS):
        (library.folder / name).write_bytes(PNG)
    return library


def files(library: Library) -> set[str]:
    """Everything in the library's folder but its record of former names."""
    return {path.name for path in library.folder.iterdir()} - {".deleted.json"}


def test_found_beside_the_identity(library: Library) -> None:
    found = {path.name for path in sidecar_files(library.path_of("person1"))}
    assert found == {"person1.json", "person1.preview.png", "person1.jpg"}


def test_renamed_with_the_person(library: Library) -> None:
    before = library.path_of("person1")
    after = library.rename("person1", "J. R")
    move_sidecars(before, after)
    assert files(library) == {"J. R.safetensors", "J. R.json", "J. R.preview.png", "J. R.jpg", *OTHERS}
    assert (library.folder / "J. R.preview.png").read_bytes() == PNG


def test_a_change_of_case_keeps_them(library: Library) -> None:
    before = library.path_of("person1")
    move_sidecars(before, library.rename("person1", "Person1"))
    assert {"Person1.safetensors", "Person1.json", "Person1.preview.png"} <= files(library)


def test_what_cannot_be_renamed_stays_and_is_logged(
    library: Library, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(self: Path, target: Path) -> Path:
        raise PermissionError(13, f"no {target}", str(self))

    monkeypatch.setattr(Path, "replace", refused)
    with caplog.at_level(logging.WARNING):
        move_sidecars(library.path_of("person1"), library.folder / "ada.safetensors")
    assert caplog.text.count("could not be renamed") == 3
    assert "person1.json" in files(library)
