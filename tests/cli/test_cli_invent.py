"""``celeb-basis invent``: sheets of people who do not exist, the next one from them, and one of them saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.command_line import Said

from celeb_basis.identities.identity import load_identity
from celeb_basis.names.filters import comparison_key
from celeb_basis.names.lists import shipped_names
from celeb_basis.provenance import GENERATED

Celeb = Callable[..., Said]


@pytest.fixture
def sheets(tmp_path: Path) -> Path:
    return tmp_path / "sheets"


@pytest.fixture
def invent(celeb: Celeb, parts: Any, sheets: Path) -> Celeb:
    """A sheet of three, in a moment."""
    options = ("--count", 3, "--steps", 1, "--components", 8, "--size", 64)
    return lambda *more: celeb(
        "invent", "--model", parts.model, "--names", parts.names, "--output", sheets, *options, *more
    )


def hashes(folder: Path, count: int = 3) -> list[str]:
    return [load_identity(folder / f"{number}.safetensors").content_hash for number in range(1, count + 1)]


def test_a_sheet_has_people_with_names_and_pictures(invent: Celeb, sheets: Path) -> None:
    said = invent("--json")
    assert said.code == 0, said.err
    assert said.json["sheet"] == str(sheets / "001" / "sheet.png")
    assert [one["number"] for one in said.json["people"]] == [1, 2, 3]
    known = {comparison_key(name) for name in shipped_names().names}
    for one in said.json["people"]:
        identity = load_identity(Path(one["file"]))
        assert identity.name == one["name"]
        assert comparison_key(one["name"]) not in known
        assert identity.metadata.source == "invented"
        assert identity.metadata.thumbnail is not None
        assert isinstance(one["face"], bool)
    assert len(set(hashes(sheets / "001"))) == 3
    assert "face" in said.json["faces"].lower()
    with Image.open(said.json["sheet"]) as sheet:
        assert sheet.width > 3 * 200
        assert GENERATED in str(sheet.text)


def test_a_model_that_knows_nobody_says_in_how_many_images_a_face_was_found(invent: Celeb) -> None:
    said = invent()
    assert "of 3 images" in said.out
    assert "use another checkpoint" in said.out


def test_a_seed_gives_the_same_people_and_the_next_sheet_has_others(invent: Celeb, sheets: Path) -> None:
    invent("--seed", 5)
    invent("--seed", 5)
    assert hashes(sheets / "001") == hashes(sheets / "002")
    invent()
    assert not set(hashes(sheets / "003")) & set(hashes(sheets / "001"))


def test_the_next_sheet_keeps_who_pleases_and_draws_the_rest_again(invent: Celeb, sheets: Path) -> None:
    invent()
    said = invent("--keep", 2, "--more", 1, "--less", 3, "--json")
    assert said.code == 0, said.err
    before, after = hashes(sheets / "001"), hashes(sheets / "002")
    assert after[1] == before[1]
    assert not {after[0], after[2]} & set(before)
    recipe = load_identity(sheets / "002" / "1.safetensors").metadata.settings
    assert (recipe["more"], recipe["less"]) == ([before[0]], [before[2]])
    names = [one["name"] for one in said.json["people"]]
    assert len(set(names)) == 3


def test_one_is_saved_by_number_and_name_and_is_like_any_person(
    invent: Celeb, celeb: Celeb, parts: Any, sheets: Path, own_library: Path, tmp_path: Path
) -> None:
    invent()
    said = celeb("invent", "--output", sheets, "--save", 2, "--name", "<mira>", "--json")
    assert said.code == 0, said.err
    saved = load_identity(own_library / "mira.safetensors")
    assert saved.name == "mira"
    assert saved.content_hash == hashes(sheets / "001")[1]
    assert saved.metadata.source == "invented"

    made = celeb(
        "generate",
        "a photo of <mira>",
        "--model",
        parts.model,
        "--steps",
        1,
        "--size",
        64,
        "--output",
        tmp_path / "out",
    )
    assert made.code == 0, made.err
    celeb("invent", "--output", sheets, "--save", 1, "--name", "ben")
    mixed = celeb("blend", "mira", "ben", "--as", "both", "--model", parts.model, "--names", parts.names)
    assert mixed.code == 0, mixed.err
    exported = celeb("export", "mira", "--layout", "webui", "--output", tmp_path / "embeddings")
    assert exported.code == 0, exported.err
    deleted = celeb("delete", "mira", "--yes", "--json")
    assert deleted.code == 0, deleted.err
    assert not (own_library / "mira.safetensors").exists()
    assert not (own_library / "both.safetensors").exists()
    assert not (sheets / "001" / "2.safetensors").exists()
    assert (sheets / "001" / "1.safetensors").exists() is True


def test_without_a_name_the_suggested_one_is_taken(
    invent: Celeb, celeb: Celeb, sheets: Path, own_library: Path
) -> None:
    invent()
    suggested = load_identity(sheets / "001" / "3.safetensors").name
    assert celeb("invent", "--output", sheets, "--save", 3).code == 0
    assert load_identity(own_library / f"{suggested}.safetensors").name == suggested


def test_people_of_sdxl_have_both_text_encoders(celeb: Celeb, parts: Any, sheets: Path, tmp_path: Path) -> None:
    from miniature.small_models.pipelines import make_pipeline, save_pipeline

    folder = tmp_path / "small-sdxl"
    save_pipeline(make_pipeline("sdxl"), folder)
    options = ("--count", 1, "--steps", 1, "--components", 8, "--size", 64, "--way", "gaussian")
    said = celeb("invent", "--model", folder, "--names", parts.names, "--output", sheets, *options)
    assert said.code == 0, said.err
    one = load_identity(sheets / "001" / "1.safetensors")
    assert one.encoders == ("clip_l", "clip_g")
    assert one.vectors[0].shape[1] != one.vectors[1].shape[1]


# Bad input


def test_a_taken_name_is_refused(invent: Celeb, celeb: Celeb, sheets: Path) -> None:
    invent()
    celeb("invent", "--output", sheets, "--save", 1, "--name", "mira")
    said = celeb("invent", "--output", sheets, "--save", 2, "--name", "mira")
    assert said.code == 2
    assert "--replace" in said.err
    assert celeb("invent", "--output", sheets, "--save", 2, "--name", "mira", "--replace").code == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--group", "women"], "has no groups"),
        (["--count", "0"], "--count"),
        (["--prompt", "nobody"], "{}"),
        (["--distance", "9"], "distance is 9"),
        (["--more", "1"], "no sheet in that folder yet"),
        (["--name", "mira"], "--save"),
        (["--seed", "-1"], "--seed"),
        (["--components", "0"], "--components"),
    ],
)
def test_what_cannot_be_right_is_refused(invent: Celeb, sheets: Path, options: list[str], words: str) -> None:
    said = invent(*options)
    assert said.code == 2
    assert words in said.err
    assert not list(sheets.glob("*/*"))


def test_a_number_that_is_not_on_the_sheet_is_refused(invent: Celeb, celeb: Celeb, sheets: Path) -> None:
    invent()
    said = celeb("invent", "--output", sheets, "--save", 4)
    assert said.code == 2
    assert "no number 4" in said.err


def test_neither_a_model_nor_a_number_is_refused(celeb: Celeb, sheets: Path) -> None:
    said = celeb("invent", "--output", sheets)
    assert said.code == 2
    assert "--model" in said.err


def test_an_invented_person_is_evaluated_against_the_picture_of_the_sheet(
    celeb: Celeb, parts: Any, own_library: Path, tmp_path: Path
) -> None:
    """The picture is a face here: the small model of tests draws none."""
    from dataclasses import replace

    from celeb_basis.identities.identity import save_identity
    from celeb_basis.miniature import PHOTOS

    options = ("--count", 1, "--steps", 1, "--components", 8, "--size", 64)
    celeb("invent", "--model", parts.model, "--names", parts.names, "--output", tmp_path, *options)
    celeb("invent", "--output", tmp_path, "--save", 1, "--name", "mira")
    evaluate = [
        "evaluate",
        "--identity",
        "mira",
        "--model",
        parts.model,
        "--names",
        parts.names,
        "--faces",
        parts.faces,
    ]
    evaluate += ["--prompts", 1, "--seeds", 1, "--steps", 1, "--size", 64, "--json"]
    path = own_library / "mira.safetensors"
    mira = load_identity(path)
    face = (PHOTOS / "stranger1.png").read_bytes()
    save_identity(replace(mira, metadata=replace(mira.metadata, thumbnail=face)), path)
    said = celeb(*evaluate)
    assert said.code == 0, said.err
    assert said.json["detect"]["count"] == 1

    save_identity(replace(mira, metadata=replace(mira.metadata, thumbnail=None)), path)
    said = celeb(*evaluate)
    assert said.code == 2
    assert "--reference" in said.err
