"""The index and the cards without a host: what is listed, shown and read, and when."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import pytest
from PIL import Image
from support.people import PNG, family_bases, model_info, person, unit_coefficients

from celeb_basis.basis import store_cached
from celeb_basis.identities.identity import load_identity, load_without_thumbnail
from celeb_basis.identities.library import Library
from celeb_basis.prompts.registry import Checkpoint, Registry
from celeb_basis.webui import cards as cards_module
from celeb_basis.webui.cards import CardMetadata, Cards, IndexedIdentity


@dataclass
class FakeTokens:
    registry: Registry
    checkpoint: Callable[[], Checkpoint | None]


@pytest.fixture
def library(tmp_path: Path) -> Library:
    library = Library(tmp_path / "people")
    library.add(person("person1", seed=1, thumbnail=PNG, notes="my <b>aunt</b>", settings={"steps": 400, "a": [1]}))
    library.add(person("Ada", "sdxl", seed=2))
    return library


def cards_of(library: Library, family: str | None = "sd1", bases: Path | None = None) -> Cards:
    loaded = None if family is None else Checkpoint(model_info(family), list)
    return Cards(FakeTokens(Registry(library.folder), lambda: loaded), bases)


def test_everybody_is_listed_in_alphabetical_order(library: Library) -> None:
    found = cards_of(library).all()
    assert [one.name for one in found] == ["Ada", "person1"]
    assert [one.content_hash for one in found] == [library.load(name).content_hash for name in ("Ada", "person1")]
    assert [one.has_thumbnail for one in found] == [False, True]
    assert all(one.metadata is not None and one.metadata.thumbnail is None for one in found)


def test_folder_is_read_anew_each_time(library: Library) -> None:
    cards = cards_of(library)
    before = cards.all()
    library.delete("Ada")
    library.add(person("person1", seed=9), replace=True)
    library.add(person("Zoë"))
    after = cards.all()
    assert [one.name for one in after] == ["person1", "Zoë"]
    assert after[0].content_hash == library.load("person1").content_hash != before[1].content_hash
    assert not after[0].has_thumbnail


def test_no_folder_is_nobody(tmp_path: Path) -> None:
    assert cards_of(Library(tmp_path / "nothing")).all() == ()


def test_another_family_is_unavailable_with_the_reason(library: Library) -> None:
    cards = cards_of(library)
    ada, person1 = cards.all()
    assert cards.reason(person1) == ""
    reason = cards.reason(ada)
    assert "sdxl" in reason
    assert "sd1" in reason
    assert cards.description(ada, reason).startswith("⚠ Not available: 'Ada' was made for a-model (sdxl)")


def test_reason_follows_the_loaded_checkpoint(library: Library) -> None:
    for family, available in (("sdxl", ["Ada"]), ("sd1", ["person1"]), (None, ["Ada", "person1"])):
        cards = cards_of(library, family)
        assert [one.name for one in cards.all() if not cards.reason(one)] == available


def test_import_of_unknown_family_is_judged_by_its_shapes(library: Library) -> None:
    imported = person("imported", seed=3)
    about = replace(imported.metadata, family="", base_sha256="", source="imported")
    library.add(replace(imported, metadata=about))
    cards = cards_of(library)  # of a checkpoint without any text encoder
    one = cards.one("imported")
    assert one is not None
    assert "text encoders" in cards.reason(one)
    assert "imported for a-model\n" in cards.description(one, "")


def test_reason_met_in_a_prompt_is_told_on_the_card(library: Library) -> None:
    other = replace(library.load("person1").metadata, base_sha256="ab", names_sha256="")
    library.add(replace(library.load("person1"), metadata=other), replace=True)
    tokens = FakeTokens(Registry(library.folder), lambda: loaded)
    loaded = Checkpoint(model_info("sd1"), list)
    cards = Cards(tokens)
    one = cards.one("person1")
    assert one is not None
    assert cards.reason(one) == ""
    tokens.registry.find("person1", loaded)
    assert "text encoders" in cards.reason(one)


def test_broken_file_is_a_card_with_its_reason(library: Library) -> None:
    (library.folder / "broken.safetensors").write_bytes(b"\0" * 100)
    cards = cards_of(library)
    broken = cards.one("broken")
    assert broken is not None
    assert "broken.safetensors cannot be used" in cards.reason(broken)
    assert CardMetadata(broken)["problem"]


@pytest.mark.parametrize("name", ["<img src=x onerror=alert(1)>", "a:b", "a\nb", 'x" onclick="y'])
def test_file_names_that_no_prompt_can_hold_have_no_card(
    library: Library, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    (library.folder / f"{name}.safetensors").write_bytes((library.folder / "Ada.safetensors").read_bytes())
    with caplog.at_level(logging.WARNING):
        assert len(cards_of(library).all()) == 2
    assert "no card" in caplog.text


def test_description_tells_model_date_and_distance(library: Library, tmp_path: Path) -> None:
    bases = family_bases("sd1")
    for basis in bases:
        store_cached(tmp_path / "bases", basis)
    cards = cards_of(library, bases=tmp_path / "bases")
    person1 = cards.one("person1")
    assert person1 is not None
    assert person1.metadata is not None
    wanted = bases[0].distance(unit_coefficients(bases, 1)[0])
    assert person1.distance == pytest.approx(wanted)
    text = cards.description(person1, "")
    assert "a-model (sd1)" in text
    learned = datetime.fromisoformat(person1.metadata.created)
    assert f"{learned.day} {learned:%B} {learned.year}" in text.splitlines()
    assert f"distance {wanted:.2f}" in text


def test_no_distance_without_the_basis(library: Library, tmp_path: Path) -> None:
    person1 = cards_of(library, bases=tmp_path).one("person1")
    assert person1 is not None
    assert person1.distance is None


def test_thumbnail_is_read_only_when_asked_for(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    whole: list[Path] = []
    monkeypatch.setattr(cards_module, "load_identity", lambda path: whole.append(path) or load_identity(path))
    cards = cards_of(library)
    person1 = cards.all()[1]
    metadata = CardMetadata(person1)
    told = {key: metadata[key] for key in metadata if key != "ssmd_cover_images"}
    assert whole == []
    assert told["notes"] == "my <b>aunt</b>"
    assert told["settings/steps"] == 400
    json.dumps(told)
    assert [base64.b64decode(one) for one in json.loads(metadata["ssmd_cover_images"])] == [PNG]
    assert whole == [person1.path]


def test_no_thumbnail_is_an_empty_list(library: Library) -> None:
    ada = cards_of(library).one("ada")
    assert ada is not None
    assert json.loads(CardMetadata(ada)["ssmd_cover_images"]) == []
    (library.folder / "Ada.safetensors").unlink()
    gone = IndexedIdentity("Ada", ada.path, ada.stamp, has_thumbnail=True)
    assert json.loads(CardMetadata(gone)["ssmd_cover_images"]) == []


def test_giant_thumbnail_is_not_served(library: Library) -> None:
    packed = io.BytesIO()
    Image.new("1", (9000, 9000)).save(packed, "PNG")
    library.add(person("giant", thumbnail=packed.getvalue()))
    giant = cards_of(library).one("giant")
    assert giant is not None
    assert giant.has_thumbnail
    assert json.loads(CardMetadata(giant)["ssmd_cover_images"]) == []


def test_each_of_a_thousand_files_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "people"
    folder.mkdir()
    data = Library(tmp_path / "one").add(person("x", thumbnail=PNG + b"\0" * 30_000)).read_bytes()
    for number in range(1000):
        (folder / f"person{number}.safetensors").write_bytes(data)
    read: list[Path] = []
    monkeypatch.setattr(
        cards_module, "load_without_thumbnail", lambda path: (read.append(path), load_without_thumbnail(path))[1]
    )
    shown = cards_of(Library(folder))
    assert len(shown.all()) == 1000
    assert len(read) == len(set(read)) == 1000
    assert len(shown.all()) == 1000
    assert len(read) == 1000
