"""The prompts that are tried, and how each tool writes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

PEOPLE = ("adamo", "berisa")
"""Words that are no words of the vocabulary, so that a tool that goes by plain words finds the person alone."""

STAND_INS = {"adamo": ("sks", "ata"), "berisa": ("ks", "tre")}
"""Two plain words of one token each, in the places of a person's two vectors."""

_WORD = re.compile(r"<(\w+)>")
_EMPHASIS = re.compile(r"\(([^():]+):([\d.]+)\)")


@dataclass(frozen=True)
class Case:
    """One prompt, as this project writes it."""

    name: str
    text: str
    emphasis: bool = False
    """Tools weigh words differently: what one makes of it is compared with itself alone."""
    long: bool = False
    """Longer than 75 tokens: tools cut it or split it differently."""


_LONG = (
    "a very detailed photo of a quiet harbour in the early morning with fishing boats and gulls and old stone houses "
    "and nets drying in the pale sun while the first people of the day carry baskets of bread and fruit along the "
    "narrow road to the market square where a band is playing slow music and children are running around the fountain "
    "with paper kites in all the colors of the rainbow . in front of it all stands <adamo> in a red coat , smiling"
)

CASES = (
    Case("at the beginning", "<adamo> as an astronaut, oil painting"),
    Case("in the middle", "a photo of <adamo> person on a beach"),
    Case("at the end", "a close-up portrait of <adamo>"),
    Case("alone", "<adamo>"),
    Case("before a comma", "a photo of <adamo>, smiling"),
    Case("before a full stop", "a photo of <adamo>. It rains"),
    Case("possessive", "<adamo>'s hat on a table"),
    Case("two people", "<adamo> and <berisa> baking a cake"),
    Case("one person twice", "<berisa> beside <berisa> in a mirror"),
    Case("emphasis", "a photo of (<adamo>:1.3) in a forest", emphasis=True),
    Case("emphasis on a phrase", "(<adamo> and <berisa>:1.2), detailed", emphasis=True),
    Case("beyond 77 tokens", _LONG, long=True),
)

Emphasis = Literal["brackets", "compel", "none"]


@dataclass(frozen=True)
class Syntax:
    """How a tool's prompts are written."""

    word: str
    """A person, with ``{}`` for the name."""
    emphasis: Emphasis
    glued: tuple[str, ...] | None = None
    """The only characters that may stand right behind a person; ``None`` if all may. Before others a space is put."""
    cut: str = ""
    """What becomes of a prompt of more than 75 tokens that the tool does not read to its end; empty where it does."""

    def why_not(self, case: Case) -> str:
        """Why there is no such prompt in the tool; empty where there is."""
        if case.emphasis and self.emphasis == "none":
            return "its prompts have no emphasis"
        return self.cut if case.long else ""

    def prompt(self, case: Case) -> str:
        """``case`` as the tool's user would write it."""
        text = case.text if self.glued is None else self._apart(case.text)
        return _WORD.sub(lambda found: self.word.format(found[1]), self._weighed(text))

    def plain(self, case: Case) -> str:
        """The same with plain words in the people's places."""
        return _WORD.sub(lambda found: " ".join(STAND_INS[found[1]]), self._weighed(case.text))

    def _weighed(self, text: str) -> str:
        return _EMPHASIS.sub(r"(\1)\2", text) if self.emphasis == "compel" else text

    def _apart(self, text: str) -> str:
        allowed = re.escape("".join((" ", *(self.glued or ()))))
        return re.sub(rf"(<\w+>)(?=[^{allowed}])", r"\1 ", text)


def handled(syntax: Syntax, cases: Sequence[Case] = CASES) -> list[Case]:
    """The cases that there are in a tool."""
    return [case for case in cases if not syntax.why_not(case)]
