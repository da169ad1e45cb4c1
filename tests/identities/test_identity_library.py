"""The library's folder of identity files."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from support.people import person

from celeb_basis.errors import FileError, IdentityError
from celeb_basis.identities.identity import load_identity
from celeb_basis.identities.library import Library

needs_permissions = pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind this user")


def test_add_list_and_load(tmp_path: Path) -> None:
    library = Library(tmp_path / "people")
    assert library.names() == ()
    ada, bob = person("ada"), person("bob", seed=1)
    assert library.add(bob) == tmp_path / "people" / "bob.safetensors"
    library.add(ada)
    assert library.names() == ("ada", "bob")
    assert library.load("bob").content_hash == bob.content_hash
    assert library.load(" ADA ").content_hash == ada.content_hash


@pytest.mark.parametrize("other", ["ada", "Ada", "ADA"])
def test_same_name_is_refused_unless_replaced(other: str, tmp_path: Path) -> None:
    library = Library(tmp_path)
    library.add(person("ada"))
    newer = person(other, seed=3)
    with pytest.raises(IdentityError, match="already an identity"):
        library.add(newer)
    assert library.load("ada").content_hash == person("ada").content_hash
    library.add(newer, replace=True)
    assert library.names() == (other,)
    assert library.load("ada").content_hash == newer.content_hash


def test_names_that_differ_by_composition_only(tmp_path: Path) -> None:
    library = Library(tmp_path)
    library.add(person(unicodedata.normalize("NFC", "Zoë")))
    with pytest.raises(IdentityError, match="already"):
        library.add(person(unicodedata.normalize("NFD", "Zoë")))
    # A file system that stores decomposed names:
    (tmp_path / unicodedata.normalize("NFC", "Zoë.safetensors")).rename(
        tmp_path / unicodedata.normalize("NFD", "Zoë.safetensors")
    )
    assert library.names() == ("Zoë",)
    with pytest.raises(IdentityError, match="already"):
        library.add(person("zoë"))
    library.add(person("Zoë", seed=2), replace=True)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    assert library.load("Zoë").content_hash == person(seed=2).content_hash


def test_a_broken_file_hides_no_other(tmp_path: Path) -> None:
    library = Library(tmp_path)
    library.add(person("ada"))
    library.add(person("carl"))
    (tmp_path / "bob.safetensors").write_bytes(b"no identity at all")
    (tmp_path / "a(b.safetensors").write_bytes((tmp_path / "ada.safetensors").read_bytes())
    (tmp_path / "notes.txt").write_text("not an identity")
    (tmp_path / ".tmp-x.safetensors").write_text("half written")
    (tmp_path / "folder.safetensors").mkdir()
    entries = {entry.name: entry for entry in library.entries()}
    assert list(entries) == ["a(b", "ada", "bob", "carl"]
    assert entries["ada"].identity is not None
    assert entries["carl"].identity is not None
    assert entries["bob"].identity is None
    assert "bob.safetensors cannot be used" in (entries["bob"].problem or "")
    assert "'('" in (entries["a(b"].problem or "")
    library.delete("bob")
    assert "bob" not in library.names()


def test_the_file_name_is_the_name(tmp_path: Path) -> None:
    library = Library(tmp_path)
    library.add(person("ada"))
    (tmp_path / "ada.safetensors").rename(tmp_path / "grace.safetensors")
    assert library.load("grace").name == "grace"


def test_rename(tmp_path: Path) -> None:
    library = Library(tmp_path)
    library.add(person("ada"))
    library.add(person("bob", seed=1))
    assert library.rename("ada", "Ada Lovelace") == tmp_path / "Ada Lovelace.safetensors"
    assert library.names() == ("Ada Lovelace", "bob")
    assert load_identity(library.path_of("Ada Lovelace")).name == "Ada Lovelace"
    with pytest.raises(IdentityError, match="already"):
        library.rename("bob", "ADA LOVELACE")
    library.rename("bob", "Bob")
    assert library.names() == ("Ada Lovelace", "Bob")
    with pytest.raises(IdentityError):
        library.rename("Bob", "a/b")
    assert library.load("Bob").content_hash == person(seed=1).content_hash


@pytest.mark.parametrize("name", ["../ada", "a/b", "a\\b", "a\x00b", "a\nb", "", "..", "aux"])
def test_names_with_path_parts(name: str, tmp_path: Path) -> None:
    library = Library(tmp_path / "people")
    (tmp_path / "ada.safetensors").write_bytes(b"outside")
    for act in (library.load, library.path_of, library.delete):
        with pytest.raises(IdentityError, match="name"):
            act(name)
    assert (tmp_path / "ada.safetensors").read_bytes() == b"outside"


def test_unknown_names_tell_who_is_there(tmp_path: Path) -> None:
    library = Library(tmp_path)
    with pytest.raises(IdentityError, match="nobody yet"):
        library.load("ada")
    library.add(person("bob"))
    for act in (library.load, library.delete):
        with pytest.raises(IdentityError, match="it holds bob"):
            act("ada")


def test_a_file_in_the_folder_s_place(tmp_path: Path) -> None:
    (tmp_path / "people").write_text("a file")
    with pytest.raises(FileError, match="not a folder"):
        Library(tmp_path / "people").names()


@needs_permissions
def test_read_only_folder(tmp_path: Path) -> None:
    library = Library(tmp_path)
    library.add(person("ada"))
    tmp_path.chmod(0o555)
    try:
        for act in (
            lambda: library.add(person("bob")),
            lambda: library.delete("ada"),
            lambda: library.rename("ada", "eve"),
        ):
            with pytest.raises(FileError, match="permission is denied"):
                act()
        assert library.names() == ("ada",)
        assert library.load("ada").name == "ada"
    finally:
        tmp_path.chmod(0o755)


def test_read_only_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(tmp_path)
    library.add(person("ada"))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(FileError, match="read-only"):
        library.delete("ada")
    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(FileError, match="read-only"):
        library.add(person("bob"))
    assert library.names() == ("ada",)
