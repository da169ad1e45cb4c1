"""The people of the world: who has which name, and how often first names repeat among them."""

from __future__ import annotations

import json
from collections import Counter
from functools import lru_cache
from pathlib import Path

import pytest

from celeb_basis.errors import CelebBasisError, FileError, NamesError
from celeb_basis.hosts.diffusers.configs import clip_tokenizer as new_tokenizer
from celeb_basis.names.filters import filter_names
from celeb_basis.names.lists import name_list, shipped_names
from miniature.people3d.person import draw_person
from miniature.world.people import People, choose_names, fitting, main, read_people

clip_tokenizer = lru_cache(new_tokenizer)


@lru_cache(None)
def ids(name: str) -> tuple[int, ...]:
    return tuple(clip_tokenizer()(name, add_special_tokens=False).input_ids)


@lru_cache
def chosen(wanted: int = 960) -> tuple[str, ...]:
    return choose_names(wanted)


def casting(folder: Path, people: int, **changes: object) -> Path:
    numbers = [3 * place + 1 for place in range(people)]
    state = {"spread": 1.3, "next": 3 * people + 1, "numbers": numbers}
    path = folder / "casting.json"
    path.write_text(json.dumps(state | changes), encoding="utf-8")
    return path


def test_names_are_two_words_and_two_tokens_of_the_shipped_list() -> None:
    assert len(chosen()) == len(set(chosen())) == 960
    assert set(chosen()) <= set(shipped_names().names)
    assert {(len(name.split()), len(ids(name))) for name in chosen()} == {(2, 2)}


def test_a_basis_accepts_every_name() -> None:
    tokenizer = clip_tokenizer()
    tokenize = lambda texts: [tokenizer(text, add_special_tokens=False).input_ids for text in texts]  # noqa: E731
    assert filter_names(name_list(chosen(), "the world"), tokenize).dropped == ()


def test_nobody_is_told_by_the_first_token_alone_as_in_the_whole_list() -> None:
    whole = [ids(name)[0] for name in shipped_names().names]
    first = [ids(name)[0] for name in chosen()]
    assert len(set(first)) / len(first) == pytest.approx(len(set(whole)) / len(whole), abs=0.01)
    alone, alone_of_whole = (
        sum(count == 1 for count in Counter(tokens).values()) / len(tokens) for tokens in (first, whole)
    )
    assert alone == pytest.approx(alone_of_whole, abs=0.05)


def test_both_tokens_tell_everybody_and_last_names_repeat_too() -> None:
    assert len({ids(name) for name in chosen()}) == 960
    assert len({ids(name)[1] for name in chosen()}) < 960


def test_a_small_world_repeats_first_names_as_well() -> None:
    assert len({ids(name)[0] for name in chosen(64)}) == pytest.approx(32, abs=1)
    assert choose_names(64) == chosen(64)


def test_more_names_than_the_list_has_are_refused() -> None:
    with pytest.raises(NamesError, match=r"2500.*1972.*fewer"):
        choose_names(2500)


def test_the_command_writes_the_people(tmp_path: Path) -> None:
    path = tmp_path / "people.json"
    main([str(casting(tmp_path, 40)), "--named", "32", "--strangers", "6", "--output", str(path)])
    people = read_people(path)
    named = fitting(chosen(32), tuple(range(1, 97, 3)), 1.3)
    assert people == People(chosen(32), named, tuple(range(97, 115, 3)), 1.3)
    before = path.read_bytes()
    main([str(tmp_path / "casting.json"), "--named", "32", "--strangers", "6", "--output", str(path)])
    assert path.read_bytes() == before


def test_a_casting_of_full_size_is_read(tmp_path: Path) -> None:
    path = tmp_path / "people.json"
    main([str(casting(tmp_path, 1060)), "--output", str(path)])
    people = read_people(path)
    assert people.names == chosen()
    assert len({*people.named, *people.strangers}) == 1060
    assert (len(people.named), len(people.strangers)) == (960, 100)


def test_too_few_people_are_refused_with_the_command_that_finds_more(tmp_path: Path) -> None:
    file = casting(tmp_path, 37)
    with pytest.raises(CelebBasisError, match=r"37 people.*38.*miniature\.people3d\.casting.*--wanted 38"):
        main([str(file), "--named", "32", "--strangers", "6", "--output", str(tmp_path / "people.json")])
    assert not (tmp_path / "people.json").exists()


@pytest.mark.parametrize("text", ["", "[]", '{"numbers": "abc", "spread": 1}', '{"numbers": [1, "2"], "spread": 1}'])
def test_a_file_that_no_casting_wrote_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "casting.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(FileError, match=r"casting\.json.*miniature\.people3d\.casting"):
        main([str(file), "--named", "1", "--strangers", "1", "--output", str(tmp_path / "people.json")])


def test_people_are_read_only_if_each_named_one_has_a_name(tmp_path: Path) -> None:
    path = tmp_path / "people.json"
    whole = {"spread": 1.4, "names": ["Ada Lovelace"], "named": [1, 2], "strangers": [3]}
    path.write_text(json.dumps(whole), encoding="utf-8")
    with pytest.raises(FileError, match=r"people\.json.*python -m miniature\.world\.people"):
        read_people(path)
    with pytest.raises(FileError, match="missing"):
        read_people(tmp_path / "missing.json")


def test_names_fit_the_people_who_bear_them() -> None:
    names, numbers = chosen(64), tuple(range(64))
    named = fitting(names, numbers, 1.4)
    assert sorted(named) == sorted(numbers), "nobody is lost or taken twice"
    assert named == fitting(names, numbers, 1.4)
    listed = shipped_names()
    said = dict(zip(listed.names, listed.columns, strict=True))
    men = [draw_person(number, 1.4).male for number in named]
    wanted = ["men" in said[name] for name in names]
    wrong = sum(one != other for one, other in zip(men, wanted, strict=True))
    assert wrong == abs(sum(men) - sum(wanted)), "no more than there are too few of"
