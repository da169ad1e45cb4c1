"""Properties of the shipped list, checked with CLIP's own tokenizer."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from importlib import resources

import pytest

from celeb_basis.hosts.diffusers.configs import clip_tokenizer
from celeb_basis.names.filters import FilteredNames, FilterOptions, filter_names
from celeb_basis.names.lists import shipped_names


def _text() -> str:
    return resources.files("celeb_basis.names").joinpath("celebrities.txt").read_bytes().decode("utf-8")


def _plain(name: str) -> str:
    """Without case and accents; independent of the package's own comparison."""
    return "".join(char for char in unicodedata.normalize("NFKD", name) if not unicodedata.combining(char)).casefold()


@pytest.fixture(scope="module")
def filtered() -> FilteredNames:
    tokenizer = clip_tokenizer()
    return filter_names(shipped_names(), lambda texts: tokenizer(list(texts), add_special_tokens=False)["input_ids"])


def test_the_file_is_sorted_composed_utf8_with_a_correct_heading() -> None:
    text = _text()
    assert unicodedata.is_normalized("NFC", text)
    assert "\r" not in text
    lines = text.split("\n")
    rows = [line.split(", ") for line in lines if line and not line.startswith("#")]
    names = [row[0] for row in rows]
    assert names == sorted(names, key=lambda name: (_plain(name), name))
    assert all(line == line.strip() for line in lines)
    assert tuple(names) == shipped_names().names
    assert f"{len(names):,} names" in text


def test_every_name_has_its_groups_and_the_heading_counts_them() -> None:
    names = shipped_names()
    assert {len(row) for row in names.columns} == {2}
    groups = names.groups()
    assert [group for group, column in groups.items() if column == 0] == ["men", "women"]
    assert {value for row in names.columns for value in row} == set(groups)
    women = sum(row[0] == "women" for row in names.columns)
    assert f"about {100 * women / len(names.names):.0f} in 100 of them women's" in _text()
    known = dict(zip(names.names, names.columns, strict=True))
    assert known["Akira Kurosawa"] == ("men", "East Asia")
    assert known["George Eliot"] == ("women", "Europe or North America")
    assert known["Wangari Maathai"] == ("women", "Africa")


def test_names_are_many_distinct_and_mostly_two_words() -> None:
    names = shipped_names().names
    assert len(names) >= 1200
    keys = Counter(re.sub(r"\W", "", _plain(name)) for name in names)
    assert [key for key, count in keys.items() if count > 1] == []
    assert all(re.fullmatch(r"[^\W\d_]+(?:[ '’-][^\W\d_]+)*", name) for name in names)
    assert sum(len(name.split()) == 2 for name in names) > 0.9 * len(names)


def test_columns_have_far_more_distinct_tokens_than_components(filtered: FilteredNames) -> None:
    assert len(filtered.names) >= 1200
    assert all(count > 600 for count in filtered.report()["distinct_tokens"])
    assert set(filtered.report()["counts"]) <= {"same tokens"}


def test_names_of_exactly_two_tokens_suffice_alone() -> None:
    tokenizer = clip_tokenizer()
    exact = filter_names(
        shipped_names(),
        lambda texts: tokenizer(list(texts), add_special_tokens=False)["input_ids"],
        FilterOptions(max_tokens=2),
    )
    assert len(exact.names) >= 1200
    assert all(count > 600 for count in exact.report()["distinct_tokens"])
