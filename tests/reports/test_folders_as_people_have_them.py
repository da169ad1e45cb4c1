"""Folders of people from network drives, Macs, Windows and cameras: what systems put there is nobody."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest
from PIL import Image

from celeb_basis.cli.learn_people import RequestedPeople, requested_people


def people_in(folder: Path) -> RequestedPeople:
    return requested_people(argparse.Namespace(photos=[folder], person=[], name=None, together=False))


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64)).save(path, "JPEG")
    return path


SYSTEM = (
    *("@eaDir", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot", "@tmp", ".@__thumb", "@__thumb", "__MACOSX"),
    *("System Volume Information", "$RECYCLE.BIN", "$Recycle.Bin", "RECYCLER", "lost+found", ".Trashes", ".Trash-1000"),
    *(".fseventsd", ".Spotlight-V100", ".TemporaryItems", "Network Trash Folder", "Temporary Items", "LOST.DIR"),
    *(".AppleDouble", ".AppleDB", ".AppleDesktop", ".git", ".thumbnails"),
)


@pytest.mark.parametrize("name", SYSTEM)
def test_a_systems_folder_is_nobody(tmp_path: Path, name: str) -> None:
    ada = picture(tmp_path / "ada" / "ada.jpg")
    picture(tmp_path / name / "SYNOPHOTO_THUMB_M.jpg")
    picture(tmp_path / name / "ada" / "ada.jpg")
    picture(tmp_path / "ada" / name / "ada.jpg")
    found = people_in(tmp_path)
    assert [(person.name, person.photos) for person in found.people] == [("ada", (ada,))]
    assert found.refused == ()


@pytest.mark.parametrize(
    "name", ["._ada.jpg", ".DS_Store", "Thumbs.db", "desktop.ini", "~$ada.jpg", "ada.xmp", "ada.aae"]
)
def test_a_systems_file_is_no_photo(tmp_path: Path, name: str) -> None:
    ada = picture(tmp_path / "ada" / "ada.jpg")
    bob = picture(tmp_path / "bob.jpg")
    for folder in (tmp_path, tmp_path / "ada"):
        (folder / name).write_bytes(b"x")
    found = people_in(tmp_path)
    assert [(person.name, person.photos) for person in found.people] == [("ada", (ada,)), ("bob", (bob,))]
    assert found.refused == ()


def test_a_raw_photo_beside_its_jpeg_is_the_same_photo(tmp_path: Path) -> None:
    jpeg = picture(tmp_path / "ada" / "IMG_0001.JPG")
    picture(tmp_path / "ada" / "IMG_0001.CR2")
    alone = picture(tmp_path / "ada" / "DSC_0002.NEF")
    picture(tmp_path / "bob.jpg")
    picture(tmp_path / "bob.dng")
    found = people_in(tmp_path)
    assert [(person.name, len(person.photos)) for person in found.people] == [("ada", 2), ("bob", 1)]
    assert set(found.people[0].photos) == {jpeg, alone}
    assert found.refused == ()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_a_fifo_is_passed_over(tmp_path: Path) -> None:
    picture(tmp_path / "ada" / "ada.jpg")
    os.mkfifo(tmp_path / "eve.jpg")
    os.mkfifo(tmp_path / "ada" / "pipe.png")
    found = people_in(tmp_path)
    assert [(person.name, len(person.photos)) for person in found.people] == [("ada", 1)]


def test_people_with_such_letters_in_their_names_stay(tmp_path: Path) -> None:
    for name in ("macosx", "recycle", "Ada Thumbs"):
        picture(tmp_path / name / "a.jpg")
    assert len(people_in(tmp_path).people) == 3
