"""The people that prompts on the command line name: those of ``--identity``, and everyone in the library."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from celeb_basis.cli.progress import Console
from celeb_basis.errors import IdentityError
from celeb_basis.identities.identity import Identity
from celeb_basis.identities.library import Library, Listing, name_key
from celeb_basis.prompts.emphasis import BREAK, parse_emphasis, read_otherwise
from celeb_basis.prompts.syntax import NETWORKS, bracketed_in, with_emphasis, without_brackets


@dataclass(frozen=True)
class PromptPeople:
    """The people that a prompt and its negative prompt name."""

    typed: tuple[tuple[str, Identity], ...]
    """Each name as it is typed, and whom it means."""

    @property
    def identities(self) -> tuple[Identity, ...]:
        """Everyone named, each once, in order."""
        return tuple({one.name: one for _, one in self.typed}.values())

    def fitted(self, fit: Callable[[Identity], Identity]) -> PromptPeople:
        """The same with everyone's vectors for another checkpoint."""
        fitted = {one.name: fit(one) for one in self.identities}
        return replace(self, typed=tuple((text, fitted[one.name]) for text, one in self.typed))

    def placeholder_tokens(self) -> dict[str, Any]:
        """Token vectors by placeholder token as it is typed."""
        return {f"<{text}>": one.token_vectors() for text, one in self.typed}

    def named_in(self, prompt: str) -> tuple[Identity, ...]:
        """Those whom one of the prompts names."""
        names = {text.partition(":")[0] for text in bracketed_in(prompt)}
        return tuple({one.name: one for text, one in self.typed if text in names}.values())


def find_people(prompts: Sequence[str], given: Sequence[Identity], library: Path, console: Console) -> PromptPeople:
    """Find everyone whom ``prompts`` name, and check that the prompts can be read.

    Args:
        prompts: The prompt and the negative prompt.
        given: The people of ``--identity``, who come before those of the same name in the library.
        library: The library's folder.
        console: Shows what is read otherwise than it may be meant.

    Raises:
        IdentityError: A name in angle brackets is nobody's, two people have the same name, or a file is broken.
        HostError: A weight is not a number.
    """
    known: dict[str, Identity] = {}
    for one in given:
        if name_key(one.name) in known:
            raise IdentityError(f"Two identities are called {one.name!r}: import one of them under another name.")
        known[name_key(one.name)] = one
    listing = Listing(library)
    typed: dict[str, Identity] = {}
    for text in (text for prompt in prompts for text in bracketed_in(prompt)):
        name = text.partition(":")[0]
        key = name_key(name.strip())
        if key not in known and listing.find(name) is not None:
            known[key] = Library(library).load(name.strip())
        if key not in known:
            raise IdentityError(_unknown(text, name, known.values(), listing))
        typed[name] = known[key]
    for prompt in prompts:
        _remark_on(prompt, typed, console)
    return PromptPeople(tuple(typed.items()))


def _remark_on(prompt: str, typed: dict[str, Identity], console: Console) -> None:
    def misread(tag: str) -> None:
        name = tag[1:-1].partition(":")[0]
        console.note(f"warning: {tag} is read as <{name}>: to change its weight, write a number, as in <{name}:0.8>.")

    text = with_emphasis(prompt, typed.get, misread=misread)
    pieces = parse_emphasis(text)  # its errors come before the model is loaded
    weighted = [
        f"{weight:.3g} for {text.strip()!r}"
        for text, weight in pieces
        if weight != 1.0 and text.strip() and (text, weight) != BREAK
    ]
    if weighted:
        more = ", ..." if len(weighted) > 5 else ""
        console.note(f"The prompt sets weights: {', '.join(weighted[:5])}{more}.")
    for sentence in read_otherwise(without_brackets(text)):
        console.note(f"warning: {sentence}")


def _unknown(text: str, name: str, given: Iterable[Identity], listing: Listing) -> str:
    if ":" in text and name.strip().casefold() in NETWORKS:
        return (
            f"The prompt contains <{text}>, but the command line loads no LoRA and no other network: "
            "leave it out, or generate in the WebUI."
        )
    here = sorted({*(one.name for one in given), *listing.names()}, key=str.casefold)
    known = ", ".join(here[:20]) or "nobody yet"
    return (
        f"The prompt contains <{text}>, but nobody of that name is in {listing.folder} ({known}), nor given: correct the "
        f"name, learn the person with 'celeb-basis learn', or add --identity {name.strip()}.safetensors if you have that file."
    )
