"""Names in a folder, by its time stamp."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from support.people import person

from celeb_basis.identities import library as listing_module
from celeb_basis.identities.library import Library, Listing


def settle(folder: Path, seconds: float = 60) -> None:
    """Make the folder's last change some time ago."""
    then = time.time() - seconds
    os.utime(folder, (then, then))


@pytest.fixture
def listings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every listing of a folder that is made from now on."""
    made: list[Path] = []
    listed: Any = listing_module._listed
    monkeypatch.setattr(listing_module, "_listed", lambda folder: (made.append(folder), listed(folder))[1])
    return made


def test_no_folder_is_nobody(tmp_path: Path) -> None:
    listing = Listing(tmp_path / "none")
    assert listing.find("ada") is None
    assert listing.names() == ()


def test_names_are_the_librarys(tmp_path: Path) -> None:
    library = Library(tmp_path)
    for name in ("ada", "Zoë", "Ada Lovelace"):
        library.add(person(name))
    (tmp_path / ".tmp-x.safetensors").write_bytes(b"")
    (tmp_path / "note.txt").write_bytes(b"")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "broken.SAFETENSORS").write_bytes(b"")
    assert sorted(Listing(tmp_path).names()) == sorted(library.names())


@pytest.mark.parametrize("typed", ["Zoë", "zoë", "ZOË", " zoë ", "zoe\u0308"])
def test_case_accents_and_spaces_around_make_no_other_name(tmp_path: Path, typed: str) -> None:
    path = Library(tmp_path).add(person("Zoë"))
    found = Listing(tmp_path).find(typed)
    assert found == ("Zoë", str(path))


def test_a_settled_folder_is_listed_once(tmp_path: Path, listings: list[Path]) -> None:
    Library(tmp_path).add(person("ada"))
    settle(tmp_path)
    listing = Listing(tmp_path)
    for _ in range(5):
        assert listing.find("ada") is not None
    assert len(listings) == 1


def test_a_change_is_seen(tmp_path: Path) -> None:
    library = Library(tmp_path)
    library.add(person("ada"))
    settle(tmp_path)
    listing = Listing(tmp_path)
    assert listing.find("bob") is None
    library.add(person("bob"))
    assert listing.find("bob") is not None
    library.delete("bob")
    assert listing.find("bob") is None


def test_a_second_change_under_the_same_stamp_is_seen(tmp_path: Path) -> None:
    library = Library(tmp_path)
    library.add(person("ada"))
    now = time.time_ns()
    os.utime(tmp_path, ns=(now, now))
    listing = Listing(tmp_path)
    assert listing.find("bob") is None
    library.add(person("bob"))
    os.utime(tmp_path, ns=(now, now))
    assert listing.find("bob") is not None
