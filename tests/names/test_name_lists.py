"""Reading lists of names: what is a name, what changes the hash, and what the errors about bad files say."""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeb_basis.errors import NamesError
from celeb_basis.names.lists import MAX_BYTES, NameList, name_list, read_names


def _read(tmp_path: Path, data: bytes | str) -> NameList:
    path = tmp_path / "list.txt"
    path.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
    return read_names(path)


def test_names_comments_columns_and_blank_lines(tmp_path: Path) -> None:
    text = (
        "# heading\n\n  Tom Hanks  \r\nUma Thurman, actor, 1970\rBob Dylan\tsinger\n"
        '   # not a name\n"Meryl Streep",21\n,lonely\nGrace   Kelly\n"#hash"'
    )
    assert _read(tmp_path, text).names == ("Tom Hanks", "Uma Thurman", "Bob Dylan", "Meryl Streep", "Grace Kelly")


def test_byte_order_mark_line_ends_and_unicode_form_do_not_matter(tmp_path: Path) -> None:
    composed = "Penélope Cruz\nBjörn Borg\n"
    expected = _read(tmp_path, composed)
    decomposed = unicodedata.normalize("NFD", composed)
    assert decomposed != composed
    for other in (
        b"\xef\xbb\xbf" + composed.encode(),
        decomposed.replace("\n", "\r\n"),
        composed.replace("\n", "\r"),
        "# by us\n\n" + composed.replace(" ", "\u00a0") + "\n\n",
        composed.rstrip(),
    ):
        read = _read(tmp_path, other)
        assert read.names == expected.names
        assert read.sha256 == expected.sha256


def test_hash_is_of_the_names_joined_by_newlines(tmp_path: Path) -> None:
    read = _read(tmp_path, "# x\nTom Hanks\n\nUma Thurman\n")
    assert read.sha256 == hashlib.sha256(b"Tom Hanks\nUma Thurman").hexdigest()
    assert read.sha256 != _read(tmp_path, "Uma Thurman\nTom Hanks\n").sha256
    assert read.source.endswith("list.txt")


_NAME = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Cn", "Zl", "Zp"), exclude_characters=',\t"#\ufeff\u200b'),
    min_size=1,
    max_size=30,
).filter(lambda text: bool(text.strip()))


@given(st.lists(_NAME, min_size=1, max_size=8), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans(), st.booleans())
def test_normalizing_is_stable(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], end: str, mark: bool, decomposed: bool
) -> None:
    """Whatever the file looks like, reading it equals listing its names, and listing them again changes nothing."""
    expected = name_list(names, "names")
    written = end.join(f"{name}, more\tcolumns{end}# {name}{end}" for name in names)
    if decomposed:
        written = unicodedata.normalize("NFD", written)
    path = tmp_path_factory.mktemp("lists") / "list.txt"
    path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + written.encode("utf-8"))
    read = read_names(path)
    assert (read.names, read.sha256) == (expected.names, expected.sha256)
    again = name_list(read.names, "again")
    assert (again.names, again.sha256) == (read.names, read.sha256)
    assert all(unicodedata.is_normalized("NFC", name) and name == " ".join(name.split()) for name in read.names)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no name"),
        (b"# only\n\n  \n#comments\n", "no name"),
        (b",\n\t\n", "no name"),
        (b"Tom Hanks\nBj\xf6rn Borg\n", "Line 2 of .* is not UTF-8"),
        (b"Tom Hanks\r\n\r\nBj\xf6rn Borg", "Line 3 of .* is not UTF-8"),
        ("Tom Hanks".encode("utf-16"), "UTF-16"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "binary file"),
        (b"Tom Hanks\n" + b"a" * 201, "Line 2 of .* has 201 characters"),
        (b"Tom\x07 Hanks", "control character U\\+0007"),
        (b"Tom\x1b[31m Hanks", "control character U\\+001B"),
        ("Tom\u2028Hanks".encode(), "control character U\\+2028"),
        (b"a\n" * (MAX_BYTES // 2 + 1), "larger than 32 MB"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_files_are_explained_in_one_sentence(tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(NamesError, match=says) as caught:
        _read(tmp_path, data)
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    assert ": " in text


def test_long_comments_and_lines_of_just_the_limit_are_fine(tmp_path: Path) -> None:
    assert _read(tmp_path, "# " + "x" * 500 + "\n" + "é" * 200).names == ("é" * 200,)


def test_a_missing_file_and_a_folder_are_explained(tmp_path: Path) -> None:
    with pytest.raises(NamesError, match=r"it does not exist: check the path\.$"):
        read_names(tmp_path / "none.txt")
    with pytest.raises(NamesError, match="folder"):
        read_names(tmp_path)


# Groups


def test_columns_are_the_groups_of_names(tmp_path: Path) -> None:
    rows = [
        f"First{i} Last{i}, {'women' if i % 2 else ' men '},\t{'Europe' if i < 9 else f'town {i}'}" for i in range(20)
    ]
    (tmp_path / "names.txt").write_text("\n".join(["# a comment", *rows, "No Columns"]), encoding="utf-8")
    names = read_names(tmp_path / "names.txt")
    assert names.columns[0] == ("men", "", "Europe")
    assert names.columns[-1] == ()
    assert names.groups() == {"women": 0, "men": 0, "Europe": 2}
    assert len(names.columns) == len(names.names)


def test_groups_change_neither_names_nor_hash() -> None:
    plain = name_list([f"First{i} Last{i}" for i in range(20)], "a list")
    grouped = name_list(plain.names, "a list", [("women",)] * 20)
    assert (plain.names, plain.sha256) == (grouped.names, grouped.sha256)
    assert plain.groups() == {}
    assert grouped.groups() == {"women": 0}


def test_columns_of_dates_and_addresses_are_no_groups() -> None:
    columns = [(f"{1900 + i // 9}", "women") for i in range(400)]
    names = name_list([f"First{i} Last{i}" for i in range(400)], "a list", columns)
    assert names.groups() == {"women": 1}


def test_comments_and_blank_names_take_their_columns_along() -> None:
    names = name_list(
        ["# no name", "Ada Lovelace", "  ", "Alan Turing"], "a list", [("x",), ("women",), ("y",), ("men",)]
    )
    assert list(zip(names.names, names.columns, strict=True)) == [
        ("Ada Lovelace", ("women",)),
        ("Alan Turing", ("men",)),
    ]
