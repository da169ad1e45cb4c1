"""Finding ``<name>`` in text."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeb_basis.prompts.syntax import cut, host_word_in, sealed, with_emphasis

KNOWN = {"person1": 1, "person10": 10, "ada lovelace": 2, "zoë": 3, "lora": 4}


class Person:
    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Person) and other.number == self.number

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Person({self.number})"


def find(text: str) -> Person | None:
    number = KNOWN.get(unicodedata.normalize("NFC", text.strip().casefold()))
    return None if number is None else Person(number)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("<person1>, smiling", [Person(1), ", smiling"]),
        ("<person1>.", [Person(1), "."]),
        ("<person1>'s hat", [Person(1), "'s hat"]),
        (",<person1>", [",", Person(1)]),
        ("<person1><person10>", [Person(1), Person(10)]),
        ("<PERSON1> and < Ada Lovelace >", [Person(1), " and ", Person(2)]),
        ("zo<zoe\u0308>", ["zo", Person(3)]),
        ("<<person1>>", ["<", Person(1), ">"]),
        ("<person1", ["<person1"]),
        ("person1>", ["person1>"]),
        ("person 1, person1", ["person 1, person1"]),
        ("<person12> <person> <person 1> <>", ["<person12> <person> <person 1> <>"]),
        ("a < b <person1> c > d", ["a < b ", Person(1), " c > d"]),
        ("<lora:person1:0.8>", ["<lora:person1:0.8>"]),
        ("", []),
    ],
)
def test_people_are_cut_out_of_the_text(text: str, pieces: list[object]) -> None:
    assert cut(text, find) == pieces


@given(st.lists(st.sampled_from(["<", ">", "person1", "person10", "0", " ", ":", "<person1>", "<person10>", "x"])))
def test_pieces_are_the_whole_text_in_order(parts: list[str]) -> None:
    text = "".join(parts)
    spelled = {1: "<person1>", 10: "<person10>"}
    pieces = cut(text, find)
    read = "".join(piece if isinstance(piece, str) else spelled[piece.number] for piece in pieces)
    assert read.replace(" ", "") == text.replace(" ", "")  # <person1 > is the same person
    assert not any(name in piece for piece in pieces if isinstance(piece, str) for name in spelled.values())


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("<person1:0.8>", "(<person1>:0.8)"),
        ("a <Person1: 1.2 >, b", "a (<Person1>:1.2), b"),
        ("<ada lovelace:.5><person10:2>", "(<ada lovelace>:.5)(<person10>:2)"),
        ("<person1:-1>", "(<person1>:-1)"),
        ("<person1>", "<person1>"),
        ("<lora:thing:0.8> <hypernet:x:1>", "<lora:thing:0.8> <hypernet:x:1>"),
        ("<lora:0.8>", "<lora:0.8>"),
        ("<person12:0.8>", "<person12:0.8>"),
        ("[<person1:0.8>:<person10>:0.5]", "[(<person1>:0.8):<person10>:0.5]"),
    ],
)
def test_a_number_in_the_brackets_is_an_emphasis(text: str, written: str) -> None:
    misread: list[str] = []
    assert with_emphasis(text, find, reserved={"lora", "hypernet"}, misread=misread.append) == written
    assert misread == []
    assert with_emphasis(written, find, reserved={"lora", "hypernet"}) == written


@pytest.mark.parametrize(
    "tag", ["<person1:>", "<person1:high>", "<person1:0.8:0.6>", "<person1:1e3>", "<person1:1.2.3>"]
)
def test_anything_but_a_number_is_left_out_and_reported(tag: str) -> None:
    misread: list[str] = []
    assert with_emphasis(f"a {tag} b", find, misread=misread.append) == "a <person1> b"
    assert misread == [tag]


def test_without_emphasis_the_number_is_left_out() -> None:
    assert with_emphasis("a <person1:0.8>", find, emphasis=False) == "a <person1>"


def test_names_are_sealed_and_come_back() -> None:
    text = "\ue000 <lost:3 <person1>, (< Ada Lovelace >:2) <nobody> <person1>"
    closed, names = sealed(text, find)
    assert closed == "\ue000 <lost:3 \ue001, (\ue002:2) <nobody> \ue003"
    assert closed.translate(names) == text
    assert sealed("<person1>" * 7000, find)[0].count("<") == 7000 - 6400


def test_words_of_the_hosts_own_language() -> None:
    assert host_word_in("Tom AND Jerry") == "AND"
    assert host_word_in("BREAK") == "BREAK"
    assert host_word_in("Tom and Jerry") is None
    assert host_word_in("ANDREA BREAKER") is None


@pytest.mark.parametrize("text", ["<" * 50_000, "<a" * 50_000, "<" + "a" * 100_000, "<person1:" * 20_000])
def test_a_long_text_of_brackets_stays_as_it_is(text: str) -> None:
    """Patterns that backtrack would not come to an end here."""
    assert cut(text, find) == [text]
    assert with_emphasis(text, find) == text
