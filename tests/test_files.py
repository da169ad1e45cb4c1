"""Files are written atomically, and names are usable as file names and as placeholder tokens."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeb_basis.errors import FileError, IdentityError
from celeb_basis.files import (
    MAX_NAME_LENGTH,
    atomic_path,
    cache_folder,
    checked_name,
    sha256_of_file,
    write_bytes,
    write_json,
)


def test_a_file_is_replaced_whole_and_missing_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.bin"
    write_bytes(path, b"first")
    write_bytes(path, b"second")
    assert path.read_bytes() == b"second"
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]
    assert sha256_of_file(path) == hashlib.sha256(b"second").hexdigest()


def test_an_error_while_writing_keeps_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    write_bytes(path, b"old")

    def break_off() -> None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EACCES, "permission"),
        (errno.EROFS, "read-only"),
        (errno.EIO, "try again"),
    ],
)
def test_the_systems_errors_become_sentences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, sentence: str
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(FileError, match=sentence):
        write_json(tmp_path / "file.json", {"a": 1})
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FileError, match="check the path"):
        write_bytes(tmp_path / "file" / "below", b"")


def test_new_files_have_the_users_usual_permissions(tmp_path: Path) -> None:
    write_bytes(tmp_path / "ours", b"")
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    "name", ["person1", "Ada Lovelace", "José", "王菲", "o'neil-smith", "a.b", "x" * MAX_NAME_LENGTH]
)
def test_usable_names(name: str) -> None:
    assert checked_name(f"  {name} ") == name


@pytest.mark.parametrize(
    "name",
    [
        "", "   ", "../x", "a/b", "a\\b", "C:", "<person1>", "a\nb", "a\x00b", "\u202egnp", "a\u200bb", ".hidden", "end.",
        "con", "NUL.txt", "Com1", "x" * (MAX_NAME_LENGTH + 1), "(a)", "[a]", "a|b", "what?", "a*", 'a"b', "{a}", "\ud800",
    ],
)  # fmt: skip
def test_unusable_names_are_refused_in_one_printable_sentence(name: str) -> None:
    with pytest.raises(IdentityError) as caught:
        checked_name(name)
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert sentence.isprintable()


def test_two_unicode_forms_of_a_name_are_one_name() -> None:
    assert checked_name("Jose\u0301") == checked_name("Jos\u00e9")


@given(st.text(max_size=80))
def test_a_checked_name_is_always_a_file_name_in_its_folder(name: str) -> None:
    try:
        checked = checked_name(name)
    except IdentityError:
        return
    path = Path("/library") / f"{checked}.safetensors"
    assert path.parent == Path("/library")
    assert path.stem == checked
    assert checked_name(checked) == checked


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CELEB_BASIS_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("CELEB_BASIS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    if os.name != "nt":
        assert cache_folder() == Path("/somewhere/celeb-basis")
