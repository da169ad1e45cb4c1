"""The record of generated files: found by name, renamed, forgotten, and harmless where it is damaged."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from support.people import family_bases, model_info, person

from celeb_basis.identities.blending import blend
from celeb_basis.identities.deletion import delete_person, traces_of
from celeb_basis.identities.generated_files import RECORD, GeneratedFiles
from celeb_basis.identities.library import Library


def written(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_files_are_found_by_any_spelling_of_a_name(tmp_path: Path) -> None:
    record = GeneratedFiles(tmp_path)
    record.note([written(tmp_path / "a.png")], "picture", ["Zoë", "bob"])
    record.note([written(tmp_path / "b.html")], "report", ["bob"])
    assert [file.path.name for file in record.of("zoe\u0308")] == ["a.png"]
    assert [file.path.name for file in record.of("BOB")] == ["a.png", "b.html"]
    record.rename("bob", "carl")
    assert record.of("bob") == ()
    assert [file.people for file in record.of("carl")] == [("Zoë", "carl"), ("carl",)]


def test_a_file_is_noted_once_as_it_was_last_written(tmp_path: Path) -> None:
    record, path = GeneratedFiles(tmp_path), tmp_path / "a.html"
    record.note([written(path, "first")], "report", ["ada"])
    record.note([written(path, "second")], "report", ["bob"])
    assert [file.people for file in record.all()] == [("bob",)]
    assert delete_person(Library(tmp_path), "bob").files == (path,)


def test_the_record_goes_with_the_last_file(tmp_path: Path) -> None:
    record = GeneratedFiles(tmp_path)
    record.note([written(tmp_path / "a.png")], "picture", ["ada"])
    assert (tmp_path / RECORD).is_file()
    record.forget(record.of("ada"))
    assert not (tmp_path / RECORD).exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"files": [{}]}', '{"files": 3}'])
def test_a_damaged_record_is_told_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    written(tmp_path / RECORD, content)
    with caplog.at_level(logging.WARNING):
        assert GeneratedFiles(tmp_path).all() == ()
    assert "cannot be read" in caplog.text
    assert not traces_of(Library(tmp_path), "ada")


def test_what_cannot_be_noted_is_told_and_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        GeneratedFiles(tmp_path).note([tmp_path / "gone.png"], "picture", ["ada"])
        GeneratedFiles(written(tmp_path / "a file")).note([written(tmp_path / "b.png")], "picture", ["ada"])
    assert caplog.text.count("Deleting ada will not find these files") == 2


def test_a_folder_in_place_of_a_file_is_left(tmp_path: Path) -> None:
    record = GeneratedFiles(tmp_path)
    record.note([written(tmp_path / "a.png")], "picture", ["ada"])
    (tmp_path / "a.png").unlink()
    written(tmp_path / "a.png" / "mine.txt")
    deleted = delete_person(Library(tmp_path), "ada")
    assert deleted.files == ()
    assert (tmp_path / "a.png" / "mine.txt").is_file()


def test_each_identity_is_named_by_its_own_file(tmp_path: Path) -> None:
    library, bases = Library(tmp_path), family_bases("sd1")
    ada, bob = (person(name, "sd1", seed, bases) for seed, name in enumerate(["ada", "bob"]))
    library.add(ada)
    library.add(blend([(ada, 1), (bob, 1)], bases, model_info("sd1"), name="both"))
    assert traces_of(library, "ada").sentence() == "Deletes the identity of ada and the identity of both."
    library.path_of("ada").unlink()
    assert traces_of(library, "ada").sentence() == "Deletes the identity of both."
