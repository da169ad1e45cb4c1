"""Precedence of the extension's options: settings page first, flags second, defaults last."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from celeb_basis.webui.options import DEFAULT_PACK, Options, Paths, data_folder, read_options


def test_defaults_of_a_host_that_knows_neither_settings_nor_flags() -> None:
    assert read_options(SimpleNamespace(), SimpleNamespace()) == Options(face_pack=DEFAULT_PACK)


def test_settings_win_over_flags() -> None:
    flags = SimpleNamespace(celeb_basis_faces="antelopev2", celeb_basis_names="mine.txt")
    assert read_options(SimpleNamespace(celeb_basis_face_pack="", celeb_basis_names=" "), flags) == Options(
        face_pack="antelopev2", names_file="mine.txt"
    )
    settings = SimpleNamespace(
        celeb_basis_face_pack=" /packs/other ",
        celeb_basis_names="list.txt",
        celeb_basis_data_folder="people",
        celeb_basis_clip="/clip",
        celeb_basis_previews=7.0,
        celeb_basis_likeness=False,
    )
    assert read_options(settings, flags) == Options("people", "/packs/other", "list.txt", "/clip", 7, likeness=False)


@pytest.mark.parametrize(("value", "expected"), [("many", 4), (None, 4), (float("nan"), 4), (-3, 0), (0, 0)])
def test_a_number_of_no_use_is_the_usual_one(value: object, expected: int) -> None:
    assert read_options(SimpleNamespace(celeb_basis_previews=value), SimpleNamespace()).previews == expected


@pytest.mark.parametrize(
    ("setting", "flag", "expected"),
    [
        ("", None, "/host/celeb-basis"),
        ("", "/people", "/people"),
        ("", "there", "/host/there"),
        ("here", "/people", "/host/here"),
        ("/mine", "/people", "/mine"),
    ],
)
def test_data_folder(setting: str, flag: str | None, expected: str) -> None:
    assert data_folder(setting, flag, Path("/host")) == Path(expected)


def test_folders_are_apart() -> None:
    paths = Paths(Path("/data"))
    assert len({paths.people, paths.unfinished, paths.uploads}) == 3
    assert not paths.data.exists(), "nothing is made by looking"
