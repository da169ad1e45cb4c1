"""The automatic filter: which names of a list go into a text encoder's basis, and why the others do not."""

from __future__ import annotations

import itertools
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from celeb_basis.diffusion_model import DiffusionModel, GenerationRequest
from celeb_basis.errors import HostError, SettingsError
from celeb_basis.faces.types import FaceNetwork, Floats
from celeb_basis.names.lists import NameList

FaceCheck: TypeAlias = Callable[[str], "str | None"]
"""Says of a name why it is no good, or ``None`` if the model draws it; see :mod:`celeb_basis.names.filters`."""

Kind = Literal["too few tokens", "too many tokens", "duplicate name", "same tokens", "too common token", "face"]
"""The rules, in the order in which they are applied."""

# Accents of Latin, Greek and Cyrillic, white space, and the punctuation that stands in names.
_IGNORED = re.compile(r"[\u0300-\u036f\s" + re.escape(string.punctuation) + r"\u00b7\u2010-\u205e\u3000-\u303f\u30fb]+")
_ASCII_KEY = str.maketrans("", "", string.whitespace + string.punctuation)


@dataclass(frozen=True)
class FilterOptions:
    """Which names are kept.

    Raises: :class:`SettingsError` at construction for a value out of its range.
    """

    min_tokens: int = 2
    """Drop names of fewer tokens. Names with fewer tokens than an identity has vectors are dropped in any case."""
    max_tokens: int | None = None
    """Drop names of more tokens; ``None`` keeps them, with the tokens beyond an identity's vectors left out."""
    drop_duplicates: bool = True
    """Drop a name that was there before (case, accents, spaces and punctuation aside), or whose tokens were."""
    max_repeats: int | None = None
    """At most so many kept names may share one token in one column; later ones are dropped as too common. ``None`` keeps
    all, as the paper does, whose basis weighs a first name that fifty celebrities share fifty times."""

    def __post_init__(self) -> None:
        _check_whole("min_tokens", self.min_tokens)
        if not isinstance(self.drop_duplicates, bool):
            raise SettingsError(f"drop_duplicates is {self.drop_duplicates!r}: say yes or no.")
        if self.max_repeats is not None:
            _check_whole("max_repeats", self.max_repeats)
        if self.max_tokens is not None:
            _check_whole("max_tokens", self.max_tokens)
            if self.max_tokens < self.min_tokens:
                raise SettingsError(
                    f"max_tokens is {self.max_tokens}, below min_tokens: choose at least {self.min_tokens}."
                )


@dataclass(frozen=True)
class Dropped:
    """A name that was left out."""

    name: str
    reason: str
    """For people, e.g. ``"same tokens as Ansel Adams"``."""
    kind: Kind
    """The rule that dropped it, for counting."""


@dataclass(frozen=True, eq=False)
class FilteredNames:
    """What is left of a list for one text encoder."""

    names: tuple[str, ...]
    """The ``N`` kept names, in the list's order."""
    token_ids: npt.NDArray[np.int64]
    """``(N, E)``: the first ``E`` token ids of each kept name; column ``e`` feeds part ``e`` of the basis."""
    dropped: tuple[Dropped, ...]
    """In the list's order."""

    def report(self) -> dict[str, Any]:
        """JSON-ready: ``given``, ``kept``, ``counts`` by rule, ``distinct_tokens`` per column, ``dropped`` one by one."""
        return {
            "given": len(self.names) + len(self.dropped),
            "kept": len(self.names),
            "counts": dict(Counter(item.kind for item in self.dropped)),
            "distinct_tokens": [len(np.unique(column)) for column in self.token_ids.T],
            "dropped": [asdict(item) for item in self.dropped],
        }


def filter_names(
    names: NameList,
    tokenize: Callable[[Sequence[str]], list[list[int]]],
    options: FilterOptions | None = None,
    *,
    tokens: int = 2,
    draws_face: FaceCheck | None = None,
) -> FilteredNames:
    """Apply the rules of ``options`` and, last and only to names that passed them, ``draws_face``.

    Parameters: ``tokenize`` gives the token ids of each text without special tokens and is called once; ``tokens`` is
    ``E``, the token vectors of an identity.

    Raises: :class:`SettingsError` for an ``E`` that no name can fill, :class:`HostError` if the tokenizer's answer does
    not fit the names.
    """
    options = options or FilterOptions()
    _check_whole("tokens", tokens)
    if options.max_tokens is not None and options.max_tokens < tokens:
        raise SettingsError(
            f"max_tokens is {options.max_tokens}: choose at least {tokens}, the vectors of an identity."
        )
    ids = tokenize(list(names.names))
    if len(ids) != len(names.names):
        raise HostError(
            f"The tokenizer answered {len(names.names)} names with {len(ids)} lists of tokens: check the host's adapter."
        )
    rules = _Rules(options, tokens)
    kept: list[int] = []
    dropped: list[Dropped] = []
    for index, (name, name_ids) in enumerate(zip(names.names, ids, strict=True)):
        verdict = rules.why_not(name, name_ids)
        if verdict is None and draws_face is not None and (reason := draws_face(name)) is not None:
            verdict = (reason, "face")
            rules.meet(name)
        if verdict is None:
            kept.append(index)
            rules.keep(name, name_ids)
        else:
            dropped.append(Dropped(name, *verdict))
    token_ids = np.array([ids[index][:tokens] for index in kept], dtype=np.int64).reshape(len(kept), tokens)
    return FilteredNames(tuple(names.names[index] for index in kept), token_ids, tuple(dropped))


class _Rules:
    """The rules on names and tokens, with what they have to remember of the names kept so far."""

    def __init__(self, options: FilterOptions, tokens: int) -> None:
        self._options = options
        self._tokens = tokens
        self._fewest = max(options.min_tokens, tokens)
        self._seen_names: dict[str, str] = {}
        self._seen_tokens: dict[tuple[int, ...], str] = {}
        self._repeats: Counter[tuple[int, int]] = Counter()

    def why_not(self, name: str, ids: Sequence[int]) -> tuple[str, Kind] | None:
        options = self._options
        if len(ids) < self._fewest:
            return f"{_counted(len(ids))}, fewer than {self._fewest}", "too few tokens"
        if options.max_tokens is not None and len(ids) > options.max_tokens:
            return f"{_counted(len(ids))}, more than {options.max_tokens}", "too many tokens"
        if options.drop_duplicates:
            if (earlier := self._seen_names.get(comparison_key(name))) is not None:
                return f"same name as {earlier}", "duplicate name"
            if (earlier := self._seen_tokens.get(tuple(ids[: self._tokens]))) is not None:
                return f"same tokens as {earlier}", "same tokens"
        if options.max_repeats is not None:
            for place in self._columns(ids):
                if self._repeats[place] >= options.max_repeats:
                    return (
                        f"token {place[0] + 1} is too common: {_counted(self._repeats[place], 'kept name')} "
                        f"already {'has' if self._repeats[place] == 1 else 'have'} it",
                        "too common token",
                    )
        return None

    def meet(self, name: str) -> None:
        """Remember a name that failed for its face, so that the model never draws another spelling of it."""
        if self._options.drop_duplicates:
            self._seen_names[comparison_key(name)] = name

    def keep(self, name: str, ids: Sequence[int]) -> None:
        """Remember a kept name and its tokens; a name without a face leaves its tokens to the next one."""
        self.meet(name)
        if self._options.drop_duplicates:
            self._seen_tokens[tuple(ids[: self._tokens])] = name
        if self._options.max_repeats is not None:
            self._repeats.update(self._columns(ids))

    def _columns(self, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
        return enumerate(itertools.islice(ids, self._tokens))


def comparison_key(name: str) -> str:
    """What two spellings of one name have in common: case, accents, spaces and punctuation aside.

    Only the accents of Latin, Greek and Cyrillic are left out: in other scripts the marks are letters.
    """
    if name.isascii():
        return name.translate(_ASCII_KEY).lower() or name
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", name).casefold())
    key = _IGNORED.sub("", folded)
    return key or name


def _counted(number: int, noun: str = "token") -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _check_whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SettingsError(f"{name} is {value!r}: give a whole number of at least 1.")


# FOLDED: The filter that asks the model itself: does it draw a face for a name, and the same face each time?
# FOLDED:
# FOLDED: The authors picked such names by eye; this is the same question put to a face network (method: paper
# FOLDED: section 3.2).

Progress = Callable[[str, "str | None"], None]
"""Called after each name with the name and its verdict: why it is no good, or ``None``."""


class GeneratedFaceCheck:
    """A :data:`~celeb_basis.names.filters.FaceCheck` that lets ``host`` draw each name and looks at the faces.

    A name fails if one of its pictures shows no face, or if the mean cosine between the faces' vectors, over all pairs
    of its pictures, is below ``same_face``. With one picture only the first is asked. In a picture of several faces the
    largest counts.

    Parameters: ``template`` is the prompt, with ``{}`` where the name goes; picture ``i`` is drawn with ``seed + i``;
    ``progress`` is called after each name, and what it raises ends the work.

    Raises: :class:`SettingsError` at construction for a value out of its range.
    """

    def __init__(
        self,
        model: DiffusionModel,
        faces: FaceNetwork,
        *,
        template: str = "a photo of {}",
        pictures: int = 2,
        same_face: float = 0.3,
        seed: int = 0,
        steps: int = 25,
        progress: Progress | None = None,
    ) -> None:
        if template.count("{}") != 1:
            raise SettingsError(f"The template {template!r} must hold {{}} once, where the name goes: change it.")
        if not 1 <= pictures <= 64:
            raise SettingsError(f"pictures is {pictures}: choose from 1 to 64.")
        if not -1.0 <= same_face <= 1.0:
            raise SettingsError(f"same_face is {same_face}: choose a cosine from -1 to 1.")
        if not 1 <= steps <= 1000:
            raise SettingsError(f"steps is {steps}: choose from 1 to 1000.")
        if not 0 <= seed < 2**32:
            raise SettingsError(f"seed is {seed}: choose from 0 to {2**32 - 1}.")
        self._host = model
        self._faces = faces
        self._template = template
        self._pictures = pictures
        self._same_face = same_face
        self._seed = seed
        self._steps = steps
        self._progress = progress

    def __call__(self, name: str) -> str | None:
        """Why ``name`` is no good, or ``None``.

        Raises: :class:`HostError` if the host draws fewer pictures than asked for, and whatever the host raises.
        """
        verdict = self._verdict(name)
        if self._progress is not None:
            self._progress(name, verdict)
        return verdict

    def _verdict(self, name: str) -> str | None:
        # replace, not format: braces in a template or a name mean nothing here.
        prompt = self._template.replace("{}", name)
        request = GenerationRequest(prompt=prompt, count=self._pictures, seed=self._seed, steps=self._steps)
        vectors: list[Floats] = []
        for picture in self._host.generate(request):
            pixels = np.array(picture.convert("RGB"), dtype=np.uint8)
            found = self._faces.detect(pixels)
            if not found:
                # The rest is not drawn: a host draws one picture after the other.
                return f"no face in drawn picture {len(vectors) + 1} of {self._pictures}"
            vectors.append(self._faces.embed([self._faces.align(pixels, found[0].landmarks)])[0])
        if len(vectors) != self._pictures:
            raise HostError(
                f"The model drew {len(vectors)} of {self._pictures} pictures for {name!r}: "
                "was it interrupted? Start the filter again."
            )
        if self._pictures == 1:
            return None
        cosine = float(np.mean([_cosine(one, other) for one, other in combinations(vectors, 2)]))
        # Written so that NaN fails too.
        if not cosine >= self._same_face:
            return f"draws a different face each time (cosine {cosine:.2f}, wanted {self._same_face:.2f})"
        return None


def _cosine(one: Floats, other: Floats) -> float:
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(np.dot(one, other)) / lengths if lengths > 0 else float("nan")
