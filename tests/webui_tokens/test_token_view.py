"""The host's text encoder seen through a view, embedding offsets in its chunks, and wrapped functions."""

from __future__ import annotations

import functools
import types
from collections import namedtuple
from collections.abc import Sequence
from typing import Any

from celeb_basis.hosts.a1111.embedding_injection import fix_embedding_offsets
from celeb_basis.hosts.a1111.encoder_views import HijackedEncoderView, TokenWithEmbedding
from celeb_basis.hosts.a1111.modules import FunctionPatches, owner_of

Mark = namedtuple("Mark", ["offset", "embedding"])
START, END = 49406, 49407
ADA = "Ada's embedding"


class Database:
    def __init__(self) -> None:
        self.asked: list[int] = []

    def find_embedding_at_position(self, tokens: Sequence[int], offset: int) -> tuple[Any, int | None]:
        self.asked.append(tokens[offset])
        return ("the host's", 2) if tokens[offset] == 7 else (None, None)


class Encoder:
    comma_token = 267

    def __init__(self) -> None:
        self.hijack = types.SimpleNamespace(embedding_db=Database(), comments=[])
        self.texts: list[list[str]] = []

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        self.texts.append(texts)
        return [[len(word) for word in text.split()] for text in texts]


def view() -> tuple[Encoder, HijackedEncoderView]:
    encoder = Encoder()
    return encoder, HijackedEncoderView(encoder, lambda name: ADA if name == "ada" else None)


def test_a_person_is_one_token_between_the_texts_tokens() -> None:
    encoder, seen = view()
    tokens = seen.tokenize(["a <ada>'s hat <bob>", "BREAK", "<ada><ada>", ""])
    assert tokens == [[1, -1, 2, 3, 5], [5], [-1, -1], []]
    assert isinstance(tokens[0][1], TokenWithEmbedding)
    assert encoder.texts == [["a ", "'s hat <bob>", "BREAK"]]
    assert seen.placed == {ADA}


def test_only_people_are_asked_for() -> None:
    encoder, seen = view()
    assert seen.tokenize(["<ada>"]) == [[-1]]
    assert encoder.texts == []


def test_the_person_is_found_at_their_token_and_all_else_by_the_host() -> None:
    encoder, seen = view()
    (tokens,) = seen.tokenize(["a <ada> bracket"])
    database = seen.hijack.embedding_db
    assert database.find_embedding_at_position(tokens, 1) == (ADA, 1)
    assert database.find_embedding_at_position(tokens, 0) == (None, None)
    assert database.find_embedding_at_position(tokens, 2) == ("the host's", 2)
    assert encoder.hijack.embedding_db.asked == [1, 7]
    assert seen.comma_token == 267
    assert seen.hijack.comments is encoder.hijack.comments


def chunk(tokens: list[int], *marks: Mark) -> Any:
    return types.SimpleNamespace(tokens=[START, *tokens, *[END] * (75 - len(tokens)), END], fixes=list(marks))


def test_a_mark_follows_its_moved_tokens() -> None:
    first = chunk([5] * 60 + [267], Mark(3, ADA), Mark(62, ADA), Mark(65, "another's"))
    first.tokens[4:6] = [0, 0]
    second = chunk([8, 0, 0, 9, 0, 0], Mark(4, ADA))
    fix_embedding_offsets([first, second], {ADA}.__contains__)
    assert first.fixes == [Mark(3, ADA), Mark(65, "another's")]
    assert second.fixes == [Mark(1, ADA), Mark(4, ADA)]


def test_a_mark_moved_twice() -> None:
    first, second = chunk([5] * 70, Mark(70, ADA)), chunk([])
    third = chunk([0, 0])
    fix_embedding_offsets([first, second, third], {ADA}.__contains__)
    assert (first.fixes, second.fixes, third.fixes) == ([], [], [Mark(0, ADA)])


def test_marks_in_place_stay() -> None:
    only = chunk([0, 0] + [4] * 71 + [0, 0], Mark(0, ADA), Mark(73, ADA))
    fix_embedding_offsets([only], {ADA}.__contains__)
    fix_embedding_offsets([only, chunk([1])], {ADA}.__contains__)
    assert only.fixes == [Mark(0, ADA), Mark(73, ADA)]


def place() -> Any:
    module = types.SimpleNamespace()
    module.double = lambda number: 2 * number
    return module


def owner() -> Any:
    return types.SimpleNamespace(installed=True)


def test_a_wrapper_is_put_in_found_and_taken_out() -> None:
    module = place()
    original, mine = module.double, owner()
    patches = FunctionPatches(mine)
    patches.wrap(module, "double", lambda double, number: double(number) + 1)
    assert module.double(3) == 7
    assert owner_of(module, "double") is mine
    patches.undo()
    patches.undo()
    assert module.double is original
    assert owner_of(module, "double") is None


def test_under_somebody_elses_wrapper_it_is_found_and_passes_through() -> None:
    module, mine = place(), owner()
    patches = FunctionPatches(mine)
    patches.wrap(module, "double", lambda double, number: double(number) + 1)
    ours = module.double

    @functools.wraps(ours)
    def theirs(number: int) -> int:
        return 100 + int(ours(number))

    module.double = theirs
    found: Any = owner_of(module, "double")
    assert found is mine
    mine.installed = False
    patches.undo()
    assert module.double(3) == 106
    assert owner_of(module, "double") is None
