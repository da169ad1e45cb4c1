"""From a typed name to vectors for the loaded checkpoint."""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.bases import name_list

from celeb_basis.basis import BasisOptions, build_bases, filtered_names
from celeb_basis.diffusion_model import ModelInfo
from celeb_basis.errors import NamesError
from celeb_basis.identities.expand import OTHERS_BASIS, expand_identity, new_identity
from celeb_basis.identities.identity import Identity, load_identity
from celeb_basis.identities.library import Library
from celeb_basis.names.lists import NameList
from celeb_basis.prompts import registry as fitting_module
from celeb_basis.prompts import registry as registry_module
from celeb_basis.prompts.registry import Checkpoint, Registry

NAMES = name_list(40)
OTHERS = name_list(41)


@dataclass
class Encoder:
    """A text encoder whose tokens are the words of a text."""

    name: str
    width: int
    seed: int = 0

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [[zlib.crc32(word.encode()) % 1000 for word in text.split()] for text in texts]

    def token_table(self) -> torch.Tensor:
        return torch.randn(1000, self.width, generator=torch.Generator().manual_seed(self.seed))

    def weights(self) -> Iterator[torch.Tensor]:
        yield self.token_table()


def checkpoint(
    width: int = 24, family: str = "sd1", sha256: str = "aa", name: str = "clip_l", seed: int = 0
) -> Checkpoint:
    info = ModelInfo(f"model of {width}", family, sha256, 512)
    return Checkpoint(info, lambda: [Encoder(name, width, seed)])


def learned(name: str, on: Checkpoint, seed: int = 0, names: object = NAMES) -> Identity:
    built = build_bases(on.encoders(), names, BasisOptions(components=6))  # type: ignore[arg-type]
    bases = [one.basis for one in built]
    generator = torch.Generator().manual_seed(seed)
    return new_identity(name, [torch.randn(2, 6, generator=generator) for _ in bases], bases, on.info)


@pytest.fixture
def home() -> Checkpoint:
    return checkpoint()


@pytest.fixture
def registry(tmp_path: Path, home: Checkpoint) -> Registry:
    library = Library(tmp_path / "people")
    for seed, name in enumerate(("person1", "person10", "Zoë", "Tom AND Jerry")):
        library.add(learned(name, home, seed))
    return Registry(library.folder, lists=lambda: (NAMES,))


def word(registry: Registry, text: str, on: Checkpoint) -> Identity:
    found = registry.find(text, on)
    assert found is not None
    assert found.available, found
    assert found.identity is not None, found
    return found.identity


def reason(registry: Registry, text: str, on: Checkpoint | None) -> str:
    found = registry.find(text, on)
    assert found is not None
    assert not found.available, found
    return found.reason


def test_a_person_on_their_own_checkpoint_has_the_stored_vectors(registry: Registry, home: Checkpoint) -> None:
    found = word(registry, "PERSON1", home)
    stored = Library(registry.folder).load("person1")
    assert (found.name, found.encoders, found.positions) == ("person1", ("clip_l",), 2)
    assert np.array_equal(found.vectors[0], stored.vectors[0])
    assert found.content_hash == stored.content_hash
    assert not np.array_equal(word(registry, "person10", home).vectors[0], stored.vectors[0])


@pytest.mark.parametrize("text", ["person", "person 1", "person100", "", "zoe", "lora:person1"])
def test_nobody(registry: Registry, home: Checkpoint, text: str) -> None:
    assert registry.known(text) is None
    assert registry.find(text, home) is None


@pytest.mark.parametrize(("width", "seed"), [(40, 0), (24, 5)])
def test_on_another_checkpoint_the_coefficients_are_expanded_in_its_own_basis(
    registry: Registry, width: int, seed: int
) -> None:
    other = checkpoint(width=width, sha256="bb", seed=seed)
    bases = [one.basis for one in build_bases(other.encoders(), NAMES, BasisOptions(components=6))]
    expected = expand_identity(Library(registry.folder).load("person1"), bases, other.info)
    found = word(registry, "person1", other)
    assert found.vectors[0].shape == (2, width)
    assert np.array_equal(found.vectors[0], expected.vectors[0])
    assert registry._unavailable == {}


def test_another_family_is_refused_with_the_reason(
    registry: Registry, home: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    other = checkpoint(width=32, family="sd2", sha256="bb", name="clip_h")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert "sd2" in reason(registry, "person1", other)
    assert list(registry._unavailable) == ["person1"]
    assert len(caplog.records) == 1
    word(registry, "person1", home)
    assert registry._unavailable == {}


def test_another_list_of_names_is_refused_or_found_among_the_users(tmp_path: Path, home: Checkpoint) -> None:
    Library(tmp_path).add(learned("ann", home, names=OTHERS))
    other = checkpoint(width=32, sha256="bb")
    assert "names" in reason(Registry(tmp_path, lists=lambda: (NAMES,)), "ann", other)
    assert word(Registry(tmp_path, lists=lambda: (NAMES, OTHERS)), "ann", other).vectors[0].shape == (2, 32)


def test_the_right_list_given_later_mends_it_at_once(tmp_path: Path, home: Checkpoint) -> None:
    Library(tmp_path).add(learned("ann", home, names=OTHERS))
    other = checkpoint(width=32, sha256="bb")
    chosen = [NAMES]
    registry = Registry(tmp_path, lists=lambda: tuple(chosen), lists_key=lambda: len(chosen))
    assert "names" in reason(registry, "ann", other)
    chosen.append(OTHERS)
    assert word(registry, "ann", other).vectors[0].shape == (2, 32)
    assert registry._unavailable == {}


def reasons(registry: Registry, on: Checkpoint | None, *names: str) -> list[str]:
    """What a page says of people."""
    reason, library = registry.reasons(on), Library(registry.folder)
    return [reason(name, library.load(name).metadata) for name in names]


def test_numbers_in_somebody_elses_basis_are_not_expanded(tmp_path: Path, home: Checkpoint) -> None:
    """The paper's authors' people: on other checkpoints of the family their vectors stand for themselves."""
    registry = Registry(tmp_path)
    known = learned("ann", home)
    theirs = replace(known.metadata, settings={"basis": OTHERS_BASIS}, names_sha256="ab" * 32)
    Library(tmp_path).add(replace(known, metadata=theirs))
    other = checkpoint(sha256="bb", seed=1)
    assert np.array_equal(word(registry, "ann", other).vectors[0], known.vectors[0])
    assert registry.reasons(other)("ann", theirs) == ""
    assert "token vectors of 24 numbers" in reason(registry, "ann", checkpoint(width=20, sha256="cc"))
    assert "sd2" in reason(registry, "ann", checkpoint(family="sd2", sha256="dd"))


def test_a_page_says_before_the_first_use_what_a_prompt_would(tmp_path: Path, home: Checkpoint) -> None:
    library = Library(tmp_path)
    people = [learned("ann", home, names=OTHERS), learned("bob", home), learned("A AND B", home)]
    for person in people:
        library.add(person)
    names = [person.name for person in people]
    registry = Registry(tmp_path, lists=lambda: (NAMES,))
    assert reasons(registry, home, *names)[:2] == ["", ""]
    for other in (
        checkpoint(width=32, sha256="bb"),
        checkpoint(sha256=""),
        checkpoint(family="sd2", name="clip_h"),
        None,
    ):
        before = reasons(registry, other, *names)
        answers = [registry.find(name, other) for name in names]
        assert before == ["" if one is None else one.reason for one in answers]
        assert before == reasons(registry, other, *names)
        assert "AND" in before[2]
    assert "another names list" in reasons(registry, checkpoint(width=32, sha256="bb"), "ann")[0]
    mended = Registry(tmp_path, lists=lambda: (OTHERS, NAMES))
    assert reasons(mended, checkpoint(width=32, sha256="bb"), "ann", "bob") == ["", ""]


def test_a_page_of_thousands_reads_no_file_and_goes_through_the_names_once(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists: list[int] = []
    other = checkpoint(width=32, sha256="bb")
    registry = Registry(registry.folder, lists=lambda: (lists.append(1), (NAMES,))[1])
    about = Library(registry.folder).load("person1").metadata
    filtered: list[str] = []
    monkeypatch.setattr(
        fitting_module,
        "filtered_names",
        lambda encoder, *rest: (filtered.append(encoder.name), filtered_names(encoder, *rest))[1],
    )
    monkeypatch.setattr(registry_module, "load_identity", lambda path: pytest.fail(f"{path} was read"))
    monkeypatch.setattr(fitting_module, "build_bases", lambda *_, **__: pytest.fail("a basis was made"))
    for _ in range(2):
        reason = registry.reasons(other)
        assert {reason(f"person{number}", about) for number in range(2000)} == {""}
    assert filtered == ["clip_l"]
    assert len(lists) == 2  # the list may have been chosen again between two pages


def test_a_bad_list_of_names_is_reported(tmp_path: Path, home: Checkpoint) -> None:
    def lists() -> Sequence[NameList]:
        raise NamesError("There is no name in it.")

    Library(tmp_path).add(learned("ann", home))
    registry = Registry(tmp_path, lists=lists)
    other = checkpoint(width=32, sha256="bb")
    assert reasons(registry, other, "ann") == [reason(registry, "ann", other)] == ["There is no name in it."]
    assert reasons(registry, home, "ann") == [""]


def test_sdxls_refiner_gets_the_part_of_its_one_text_encoder(tmp_path: Path) -> None:
    both = [Encoder("clip_l", 24), Encoder("clip_g", 40, seed=1)]
    base = Checkpoint(ModelInfo("xl", "sdxl", "aa", 1024), lambda: both)
    refiner = Checkpoint(ModelInfo("refiner", "sdxl", "bb", 1024), lambda: both[1:])
    for name, names in (("ann", NAMES), ("bob", OTHERS)):
        Library(tmp_path).add(learned(name, base, names=names))
    registry = Registry(tmp_path, lists=lambda: (NAMES,))
    whole, part = word(registry, "ann", base), word(registry, "ann", refiner)
    assert (whole.encoders, part.encoders) == (("clip_l", "clip_g"), ("clip_g",))
    assert np.array_equal(part.vectors[0], whole.vectors[1])
    assert reasons(registry, refiner, "ann", "bob")[0] == ""
    assert reasons(registry, refiner, "bob") == [reason(registry, "bob", refiner)]
    alone = Checkpoint(ModelInfo("half", "sdxl", "cc", 1024), lambda: both[1:])
    Library(tmp_path).add(learned("eve", alone))
    assert "text encoders" in reason(registry, "eve", base)


def test_without_a_checkpoint(registry: Registry, home: Checkpoint) -> None:
    assert "no checkpoint" in reason(registry, "person1", None)
    word(registry, "person1", home)


def test_a_broken_file_is_reported_and_mended(registry: Registry, home: Checkpoint) -> None:
    path = Library(registry.folder).path_of("person1")
    whole = path.read_bytes()
    word(registry, "person1", home)
    path.write_bytes(whole[:100])
    assert "person1.safetensors" in reason(registry, "person1", home)
    path.write_bytes(whole)
    word(registry, "person1", home)


def test_a_name_that_the_host_would_cut_apart(registry: Registry, home: Checkpoint) -> None:
    assert "AND" in reason(registry, "Tom AND Jerry", home)
    assert word(registry, "tom and jerry", home).name == "Tom AND Jerry"


def test_a_file_is_read_when_it_is_used_and_when_it_changed(
    registry: Registry, home: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    monkeypatch.setattr(
        registry_module, "load_identity", lambda path: (reads.append(path.stem), load_identity(path))[1]
    )
    assert registry.names() == ("person1", "person10", "Tom AND Jerry", "Zoë")
    assert reads == []
    before = word(registry, "person1", home)
    assert word(registry, "person1", home) is before
    Library(registry.folder).add(learned("person1", home, seed=77), replace=True)
    after = word(registry, "person1", home)
    assert after.content_hash != before.content_hash
    assert reads == ["person1", "person1"]


def test_a_deleted_person_is_nobody(registry: Registry, home: Checkpoint) -> None:
    word(registry, "person1", home)
    os.unlink(Library(registry.folder).path_of("person1"))
    assert registry.find("person1", home) is None
    assert registry.known("person1") is None


def test_everybody_in_the_prompts_once(registry: Registry, home: Checkpoint) -> None:
    prompts = ["<person10:0.8>, <PERSON1>", "<person1>", "person1 <nobody> <lora:person1:1> <Zoë"]
    assert [found.name for found in registry.mentioned(prompts, home)] == ["person10", "person1"]


def test_another_folder(registry: Registry, home: Checkpoint, tmp_path: Path) -> None:
    word(registry, "person1", home)
    Library(tmp_path / "more").add(learned("person1", home, seed=9))
    before = word(registry, "person1", home).content_hash
    registry.folder = tmp_path / "more"
    assert registry.names() == ("person1",)
    assert word(registry, "person1", home).content_hash != before
