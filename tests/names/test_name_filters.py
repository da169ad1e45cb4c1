"""The filter's rules, one by one, with a tokenizer that the test can read: every word is one token."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeb_basis.errors import HostError, SettingsError
from celeb_basis.names.filters import FilteredNames, FilterOptions, comparison_key, filter_names
from celeb_basis.names.lists import name_list


class WordTokenizer:
    """A tokenizer of whole words that counts its calls."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}
        self.calls = 0

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        self.calls += 1
        return [[self.ids.setdefault(word, len(self.ids)) for word in text.lower().split()] for text in texts]


def _filter(*names: str, tokens: int = 2, **options: object) -> FilteredNames:
    return filter_names(name_list(names, "test"), WordTokenizer(), FilterOptions(**options), tokens=tokens)  # type: ignore[arg-type]


def _reasons(filtered: FilteredNames) -> dict[str, str]:
    return {item.name: item.reason for item in filtered.dropped}


def test_names_of_too_few_tokens_are_dropped_and_later_tokens_ignored() -> None:
    words = WordTokenizer()
    filtered = filter_names(name_list(["Tom Hanks", "Cher", "Helena Bonham Carter"], "test"), words)
    assert filtered.names == ("Tom Hanks", "Helena Bonham Carter")
    expected = [[words.ids["tom"], words.ids["hanks"]], [words.ids["helena"], words.ids["bonham"]]]
    assert filtered.token_ids.tolist() == expected
    assert filtered.token_ids.dtype == np.int64
    assert _reasons(filtered) == {"Cher": "1 token, fewer than 2"}
    assert words.calls == 1


def test_min_and_max_tokens() -> None:
    names = ("Cher", "Tom Hanks", "Helena Bonham Carter", "Aung San Suu Kyi")
    assert _filter(*names, max_tokens=3).names == names[1:3]
    assert _reasons(_filter(*names, max_tokens=3))["Aung San Suu Kyi"] == "4 tokens, more than 3"
    assert _filter(*names, min_tokens=3).names == names[2:]
    # A name must fill every column, whatever min_tokens says.
    assert _filter(*names, min_tokens=1, tokens=3).names == names[2:]
    assert _filter(*names, min_tokens=1, tokens=1).token_ids.shape == (4, 1)


def test_duplicates_ignore_case_accents_spaces_and_punctuation() -> None:
    filtered = _filter("Penélope Cruz", "penelope  cruz", "PENÉLOPE CRUZ", "Jean-Luc Godard", "Jean Luc Godard")
    assert filtered.names == ("Penélope Cruz", "Jean-Luc Godard")
    assert _reasons(filtered)["penelope cruz"] == "same name as Penélope Cruz"
    assert {item.kind for item in filtered.dropped} == {"duplicate name"}


def test_marks_that_are_letters_in_their_script_distinguish_names() -> None:
    assert comparison_key("Élodie Ångström") == "elodieangstrom"
    assert comparison_key("राम") != comparison_key("रोम")
    assert comparison_key("か") != comparison_key("が")
    assert comparison_key("!!!") != comparison_key("???")


def test_names_whose_first_tokens_are_the_same() -> None:
    filtered = _filter("Helena Bonham Carter", "Helena Bonham Smith", "Helena Smith")
    assert filtered.names == ("Helena Bonham Carter", "Helena Smith")
    assert _reasons(filtered) == {"Helena Bonham Smith": "same tokens as Helena Bonham Carter"}


def test_duplicates_can_be_kept() -> None:
    names = ("Tom Hanks", "tom hanks", "Tom Hanks Jr")
    assert _filter(*names, drop_duplicates=False).names == names


def test_too_common_tokens_count_per_column_and_only_kept_names() -> None:
    filtered = _filter("Tom Hanks", "Tom Hardy", "Hanks Tom", "Uma Hanks", "Tom Waits", "Rita Hanks", max_repeats=2)
    assert filtered.names == ("Tom Hanks", "Tom Hardy", "Hanks Tom", "Uma Hanks")
    assert _reasons(filtered) == {
        "Tom Waits": "token 1 is too common: 2 kept names already have it",
        "Rita Hanks": "token 2 is too common: 2 kept names already have it",
    }


def test_the_face_check_runs_last_and_only_on_names_that_passed() -> None:
    asked: list[str] = []

    def check(name: str) -> str | None:
        asked.append(name)
        return "no face" if name.startswith("Bob") else None

    names = name_list(
        ["Tom Hanks", "Cher", "tom hanks", "Bob Dylan", "bob dylan", "Bob Dylan Senior", "Uma Thurman"], "t"
    )
    filtered = filter_names(names, WordTokenizer(), face_check=check)
    # Another spelling of a name that failed is not drawn again; another person with its first tokens is.
    assert asked == ["Tom Hanks", "Bob Dylan", "Bob Dylan Senior", "Uma Thurman"]
    assert filtered.names == ("Tom Hanks", "Uma Thurman")
    assert _reasons(filtered)["Bob Dylan"] == "no face"
    assert filtered.report()["counts"] == {"too few tokens": 1, "duplicate name": 2, "face": 2}


def test_a_name_without_a_face_does_not_use_up_a_common_token() -> None:
    filtered = filter_names(
        name_list(["Tom Hanks", "Tom Hardy"], "t"),
        WordTokenizer(),
        FilterOptions(max_repeats=1),
        face_check=lambda name: "no face" if name == "Tom Hanks" else None,
    )
    assert filtered.names == ("Tom Hardy",)


def test_report_is_json_and_adds_up() -> None:
    filtered = _filter("Tom Hanks", "Tom Hardy", "Cher", "Tom Hanks")
    report = json.loads(json.dumps(filtered.report()))
    assert report == {
        "given": 4,
        "kept": 2,
        "counts": {"too few tokens": 1, "duplicate name": 1},
        "distinct_tokens": [1, 2],
        "dropped": [
            {"name": "Cher", "reason": "1 token, fewer than 2", "kind": "too few tokens"},
            {"name": "Tom Hanks", "reason": "same name as Tom Hanks", "kind": "duplicate name"},
        ],
    }


def test_nothing_kept_is_an_empty_table() -> None:
    filtered = _filter("Cher", "Madonna")
    assert filtered.token_ids.shape == (0, 2)
    assert filtered.report()["distinct_tokens"] == [0, 0]


@given(st.lists(st.lists(st.sampled_from("ABCDE"), min_size=1, max_size=4), min_size=1, max_size=40), st.integers(1, 3))
def test_every_name_is_kept_or_dropped_by_the_rules(words: list[list[str]], max_repeats: int) -> None:
    names = name_list([" ".join(name) for name in words], "random")
    filtered = filter_names(names, WordTokenizer(), FilterOptions(max_repeats=max_repeats))
    together = Counter(filtered.names) + Counter(item.name for item in filtered.dropped)
    assert together == Counter(names.names)
    assert len(np.unique(filtered.token_ids, axis=0)) == len(filtered.names)
    for column in filtered.token_ids.T:
        assert np.unique(column, return_counts=True)[1].max(initial=0) <= max_repeats


@pytest.mark.parametrize(
    "options",
    [
        {"min_tokens": 0},
        {"min_tokens": 1.5},
        {"min_tokens": True},
        {"max_tokens": 1},
        {"max_tokens": 0, "min_tokens": 1},
        {"max_repeats": 0},
        {"drop_duplicates": "maybe"},
    ],
)
def test_bad_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=next(iter(options))):
        FilterOptions(**options)  # type: ignore[arg-type]


def test_impossible_numbers_of_tokens_are_refused() -> None:
    with pytest.raises(SettingsError, match="max_tokens"):
        _filter("Tom Hanks", tokens=3, max_tokens=2)
    with pytest.raises(SettingsError, match="tokens"):
        _filter("Tom Hanks", tokens=0)


def test_a_tokenizer_that_loses_names_is_an_error() -> None:
    with pytest.raises(HostError, match="1 lists of tokens for 2 names"):
        filter_names(name_list(["Tom Hanks", "Uma Thurman"], "t"), lambda texts: [[1, 2] for _ in texts[1:]])


def test_a_hundred_thousand_names_are_tokenized_in_one_call() -> None:
    names = name_list((f"Námè{i % 4000} Other{i}" for i in range(100_000)), "many")
    tokenize = WordTokenizer()
    filtered = filter_names(names, tokenize, FilterOptions(max_repeats=20))
    assert tokenize.calls == 1
    assert len(filtered.names) == 80_000
