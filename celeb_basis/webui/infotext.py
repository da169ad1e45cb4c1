"""The people in a picture's generation parameters: written when it is generated, checked when they are pasted.

A picture whose prompts name people carries ``Celeb Basis: "person1: 3da88c0dcb81"``. The hash is that of the identity
file's own vectors, so it can be compared whichever checkpoint is loaded.
"""

from __future__ import annotations

import html
import importlib
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from celeb_basis.identities.library import IdentityStatus, Listing
from celeb_basis.prompts.registry import Registry
from celeb_basis.prompts.syntax import prompts_beside
from celeb_basis.provenance import PEOPLE, parse_people, people_text, png_texts
from celeb_basis.webui.cards import IdentityIndex
from celeb_basis.webui.extension import add_callback

_log = logging.getLogger(__name__)

_SEARCHED = 20_000
"""Characters at the end of a picture's parameters that are searched."""
_WRITTEN = re.compile(rf'(?:^|, ){PEOPLE}: "([^"\n]*)"')


class Tokens(Protocol):
    """What is needed of :class:`celeb_basis.hosts.a1111.app.Tokens`."""

    registry: Registry

    def mentioned(self, *prompts: str) -> tuple[IdentityStatus, ...]:
        """Everyone named in ``prompts``."""


def installed_tokens() -> Tokens | None:
    """The names in this host's prompts, or ``None`` while there are none."""
    from celeb_basis.hosts.detect import adapter

    return adapter().installed_tokens()


def written(people: Iterable[tuple[str, str]]) -> str | None:
    """Names and hashes as the parameter's value; ``None`` for nobody."""
    return people_text(people) or None


@dataclass(frozen=True)
class PerPicture:
    """A parameter that differs between the pictures of a job; the host calls it for each.

    The host's own lists of values are no help: it counts pictures within a batch in some places, within the job in others.
    """

    values: tuple[str | None, ...]

    def __call__(
        self, p: Any, index: int, all_prompts: Sequence[str], use_main_prompt: bool = False, **_: Any
    ) -> str | None:
        """The value for picture ``index`` of the host's present list of prompts: all of the job's, or a batch's."""
        if not use_main_prompt and all_prompts is not p.all_prompts:
            index += int(p.iteration) * int(p.batch_size)
        return self.values[index] if index < len(self.values) else None


class Infotext:
    """Writes and checks the parameter.

    Args:
        tokens: Answers the names in the host's prompts.
        warn: Shows the user a sentence.
    """

    def __init__(
        self, tokens: Callable[[], Tokens | None] = installed_tokens, warn: Callable[[str], None] | None = None
    ):
        self._tokens = tokens
        self._warn = warn or _warn_on_the_page
        self._index = IdentityIndex()

    def value(self, prompts: Iterable[str]) -> str | None:
        """The parameter's value for a picture of ``prompts``: all identities in them that the checkpoint can use."""
        tokens = self._tokens()
        if tokens is None:
            return None
        files = [(one.name, one.path) for one in tokens.mentioned(*prompts) if one.available]
        return written((one.name, one.content_hash) for one in self._index.of(files))

    def note(self, processing: Any, batch_number: int) -> None:
        """Put the parameter into the host's processing object, for each picture from this batch on.

        Earlier batches keep theirs, in case a person is learned again in between.
        """
        parameters: dict[str, Any] = processing.extra_generation_params
        before = parameters.pop(PEOPLE, None)
        rows = [row + prompts_beside(row, parameters) for row in _prompts_of_pictures(processing)]
        earlier = before.values if isinstance(before, PerPicture) else (before,) * len(rows)
        values: list[str | None] = list(earlier[: batch_number * int(processing.batch_size)])
        known: dict[tuple[str, ...], str | None] = {}
        for row in rows[len(values) :]:
            if row not in known:
                known[row] = self.value(row) if any("<" in prompt for prompt in row) else None
            values.append(known[row])
        if any(value is not None for value in values):
            parameters[PEOPLE] = values[0] if len(set(values)) == 1 else PerPicture(tuple(values))

    def check(self, parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """Warnings before pasted ``parameters`` are used again: which identities are missing, which have changed."""
        people = parse_people(parameters.get(PEOPLE))
        tokens = self._tokens()
        if not people or tokens is None:
            return ()
        listing = Listing(tokens.registry.folder)
        warnings = []
        for name, content_hash in people:
            found = listing.find(name)
            identities = self._index.of([(found[0], Path(found[1]))]) if found else ()
            if not identities:
                warnings.append(self._missing(name, content_hash, listing))
            elif identities[0].problem:
                warnings.append(
                    f"The picture was made with <{name}>, whose file here is unusable: {identities[0].problem}"
                )
            elif identities[0].content_hash != content_hash:
                warnings.append(
                    f"The picture was made with another <{name}> ({content_hash}) than the one here "
                    f"({identities[0].content_hash}): with yours it will look different."
                )
        return tuple(warnings)

    def saved(self, params: Any) -> None:
        """The host's callback before it saves a picture: one with people in it says that it is generated, and whom it shows."""
        text = str(params.pnginfo.get("parameters") or "")[-_SEARCHED:]
        prompt = text.partition("\nNegative prompt: ")[0].casefold()
        found = _WRITTEN.search(text.rpartition("\n")[2])
        words = [
            f"<{name}>" for name, _ in parse_people(found[1] if found else None) if f"<{name.casefold()}" in prompt
        ]
        if words:
            params.pnginfo.update(png_texts(words))

    def pasted(self, infotext: str, parameters: Mapping[str, Any]) -> None:
        """The host's callback for pasted parameters."""
        del infotext  # read by the host already
        for sentence in self.check(parameters):
            _log.warning("%s", sentence)
            self._warn(sentence)

    def _missing(self, name: str, content_hash: str, listing: Listing) -> str:
        made = f"The picture was made with <{name}> ({content_hash}), who is not in your library"
        twin = next((one for one in self._index.of(listing.files()) if one.content_hash == content_hash), None)
        if twin is not None:
            return f"{made} under that name: write <{twin.name}>, which is the same identity."
        return f"{made}: import that identity, or learn the person again; until then <{name}> is read as plain text."


def register(tokens: Callable[[], Tokens | None] = installed_tokens) -> Infotext:
    """Register the host's callbacks for pasted parameters and saved pictures.

    Called once each time the host loads its scripts.
    """
    infotext = Infotext(tokens)
    add_callback("infotext_pasted", infotext.pasted, __file__)
    add_callback("before_image_saved", infotext.saved, __file__)
    return infotext


def _prompts_of_pictures(processing: Any) -> list[tuple[str, ...]]:
    """All prompts of each picture of a job, as they were written, with styles applied."""
    columns: list[Sequence[str]] = [processing.all_prompts, processing.all_negative_prompts]
    if getattr(processing, "enable_hr", False):
        columns += [
            getattr(processing, "all_hr_prompts", None) or (),
            getattr(processing, "all_hr_negative_prompts", None) or (),
        ]
    return [
        tuple(str(column[index]) for column in columns if index < len(column))
        for index in range(len(processing.all_prompts))
    ]


def _warn_on_the_page(sentence: str) -> None:
    gradio: Any = importlib.import_module("gradio")
    # From version 4 on, gradio shows it as HTML, in which <name> would be a tag.
    gradio.Warning(sentence if gradio.__version__.startswith("3.") else html.escape(sentence))
