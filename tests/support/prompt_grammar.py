"""Random prompts in all of the WebUI's syntax, each written twice: with ``<name>``, and with a mark in its place."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

PLAIN = (
    "photo", "portrait", "a", "of", "smiling", "in", "the", "rain", "cat", "masterpiece", "8k", "oil painting", "Paris",
    "person 1", "person1", "person10", "PERSON 1", "ada lovelace", "<person12>", "<nobody>", "< person>", "<>", "5 > 3",
    "café", "naïve", "東京", "🙂", "don't", "hat's", "x_y", "semi-real", "#1", "100%", "<lora:none:0.7>", "<endoftext",
)  # fmt: skip
"""Words and look-alikes that name no identity."""

BETWEEN = (
    " ",
    " ",
    " ",
    ", ",
    ", ",
    ",",
    "",
    ".",
    ". ",
    "!",
    "!!",
    "'s ",
    "-",
    "; ",
    "? ",
    "...",
    '"',
    "\n",
    " / ",
    "&",
)

Twice = tuple[str, str]


@dataclass(frozen=True)
class Prompt:
    """One prompt in both spellings."""

    typed: str
    marked: str
    people: int
    """How often anybody is named in the text as it stands, before editing and alternation leave some out."""


class Grammar:
    """Draws prompts. ``marks`` are the characters that stand for people's names."""

    def __init__(self, marks: Mapping[str, str], seed: int) -> None:
        self._marks = dict(marks)
        self._random = random.Random(seed)
        self._people = 0
        self._unbalanced = False

    def prompt(self) -> Prompt:
        """The next prompt: short ones, ones of several chunks, and ones joined by ``AND``."""
        self._people = 0
        # Where a bracket is missing, the host's parser of prompt editing has many readings and takes any.
        self._unbalanced = self._random.random() < 0.05
        drawn = self._random.random()
        if drawn < 0.25:
            typed, marked = self._long()
        elif drawn < 0.4:
            typed, marked = self._joined()
        else:
            typed, marked = self._text(0, self._random.randint(1, 12))
        return Prompt(typed, marked, self._people)

    def _joined(self) -> Twice:
        parts = [self._text(0, self._random.randint(1, 5)) for _ in range(self._random.randint(2, 3))]
        joint = self._random.choice((" AND ", " AND ", " AND\n"))
        ends = [self._random.choice(("", "", " :1.2", " : 0.5", ":-1")) for _ in parts]
        return (
            joint.join(typed + end for (typed, _), end in zip(parts, ends, strict=True)),
            joint.join(marked + end for (_, marked), end in zip(parts, ends, strict=True)),
        )

    def _long(self) -> Twice:
        """People at every distance from the border between two chunks, with and without commas before it."""
        choose = self._random
        pieces: list[Twice] = []
        for _ in range(choose.randint(1, 3)):
            filler = [
                choose.choice(("word", "tree", "blue", "of", "a", "old,", "red,"))
                for _ in range(choose.randint(55, 80))
            ]
            at = choose.randint(50, len(filler))
            pieces.append((" ".join(filler[:at]), " ".join(filler[:at])))
            pieces += [self._person() for _ in range(choose.randint(1, 3))]
            pieces.append((" ".join(filler[at:]), " ".join(filler[at:])))
        return self._glued(pieces)

    def _text(self, depth: int, length: int) -> Twice:
        return self._glued([self._item(depth) for _ in range(length)])

    def _glued(self, pieces: list[Twice]) -> Twice:
        typed = marked = ""
        for i, (left, right) in enumerate(pieces):
            between = self._random.choice(BETWEEN) if i else ""
            typed += between + left
            marked += between + right
        return typed, marked

    def _item(self, depth: int) -> Twice:
        kinds: list[tuple[int, Callable[[int], Twice]]] = [
            (40, lambda _: (word := self._random.choice(PLAIN), word)),
            (35, lambda _: self._person()),
            (5, lambda _: self._weighted_person()),
            (2, lambda _: (" BREAK ", " BREAK ")),
        ]
        if depth < 3 and self._unbalanced:
            kinds += [(8, lambda deeper: self._around("(", deeper, self._random.choice(("", ")"))))]
        elif depth < 3:
            kinds += [
                (8, self._emphasis),
                (5, self._editing),
                (3, self._alternation),
                (2, lambda deeper: self._around("\\(", deeper, "\\)")),
            ]
        chosen = self._random.choices([kind for _, kind in kinds], [weight for weight, _ in kinds])[0]
        return chosen(depth + 1)

    def _person(self) -> Twice:
        self._people += 1
        name = self._random.choice(list(self._marks))
        spelled = self._random.choice((name, name, name, name.upper(), name.title(), f" {name} "))
        return f"<{spelled}>", self._marks[name]

    def _weighted_person(self) -> Twice:
        self._people += 1
        name = self._random.choice(list(self._marks))
        weight = self._random.choice(("0.8", "1.2", ".5", "2", "1.", "+0.9", " 0.7 "))
        return f"<{name}:{weight}>", f"({self._marks[name]}:{weight.strip()})"

    def _emphasis(self, depth: int) -> Twice:
        opening, closing = self._random.choice((("(", ")"), ("((", "))"), ("[", "]"), ("(", ":1.3)"), ("(", ": 0.6)")))
        return self._around(opening, depth, closing)

    def _editing(self, depth: int) -> Twice:
        when = self._random.choice(("0.5", "0.25", "3", " 2 "))
        kind = self._random.randint(0, 2)
        if kind == 0:
            return self._around("[", depth, f":{when}]")
        if kind == 1:
            return self._around("[", depth, f"::{when}]")
        first, second = self._short(depth), self._short(depth)
        return f"[{first[0]}:{second[0]}:{when}]", f"[{first[1]}:{second[1]}:{when}]"

    def _alternation(self, depth: int) -> Twice:
        parts = [self._short(depth) for _ in range(self._random.randint(2, 3))]
        return "[" + "|".join(typed for typed, _ in parts) + "]", "[" + "|".join(marked for _, marked in parts) + "]"

    def _around(self, opening: str, depth: int, closing: str) -> Twice:
        typed, marked = self._short(depth)
        return opening + typed + closing, opening + marked + closing

    def _short(self, depth: int) -> Twice:
        return self._text(depth, self._random.randint(1, 3))
