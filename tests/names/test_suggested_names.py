"""Names for invented people: the same for a seed, usable in prompts, and no celebrity's."""

from __future__ import annotations

import pytest

from celeb_basis.errors import NamesError
from celeb_basis.names import suggestions
from celeb_basis.names.filters import comparison_key
from celeb_basis.names.lists import shipped_names
from celeb_basis.names.suggestions import MEN, WOMEN, suggested_name
from celeb_basis.prompts.syntax import check_new_name


def test_a_seed_gives_the_same_name_and_seeds_give_different_ones() -> None:
    names = [suggested_name(seed, ["Ada Lovelace"]) for seed in range(200)]
    assert names == [suggested_name(seed, ["Ada Lovelace"]) for seed in range(200)]
    assert len(set(names)) > 190


def test_no_celebritys_name_is_suggested_nor_a_last_name_of_theirs() -> None:
    celebrities = shipped_names().names
    keys = {comparison_key(name) for name in celebrities} | {comparison_key(name.split()[-1]) for name in celebrities}
    for seed in range(500):
        name = suggested_name(seed, celebrities)
        assert not {comparison_key(name), comparison_key(name.split()[-1])} & keys


def test_every_name_can_stand_in_a_prompt_and_name_a_file() -> None:
    for seed in range(300):
        name = suggested_name(seed, [])
        assert check_new_name(name) == name
        assert name.isascii()
        assert len(name) < 30


def test_a_name_that_is_taken_gives_another_one() -> None:
    first = suggested_name(4, [])
    second = suggested_name(4, [], [first.upper()])
    assert second != first
    assert suggested_name(4, [first]) != first


def test_first_names_follow_the_groups() -> None:
    assert all(suggested_name(seed, [], men=False).split()[0] in WOMEN for seed in range(50))
    assert all(suggested_name(seed, [], women=False).split()[0] in MEN for seed in range(50))
    assert not set(WOMEN) & set(MEN)


def test_it_ends_when_every_name_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_FIRST", "_MIDDLE", "_LAST"):
        monkeypatch.setattr(suggestions, name, ("x",))
    monkeypatch.setattr(suggestions, "_TRIES", 50)
    with pytest.raises(NamesError, match="a name of your own"):
        suggested_name(1, ["Somebody xxx"])
