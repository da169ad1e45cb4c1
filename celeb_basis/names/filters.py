"""Filters on names: which names of a list are used for a text encoder's basis, and why the others are not.

:func:`filter_names` applies the rules on tokens and duplicates. :class:`GeneratedFaceCheck` asks the model itself whether
it renders a name with a face, and with the same face each time (paper section 3.2; its authors picked such names by eye).
"""

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
from celeb_basis.faces.network import FaceNetwork, Floats
from celeb_basis.names.lists import NameList, near_synonyms

FaceCheck: TypeAlias = Callable[[str], "str | None"]
"""Returns why a name is not usable, or ``None`` if it is; see :class:`GeneratedFaceCheck`."""

Kind = Literal[
    "too few tokens", "too many tokens", "duplicate name", "same tokens", "vague token", "too common token", "face"
]
"""The rules, in the order in which they are applied."""

# Accents of Latin, Greek and Cyrillic, white space, and the punctuation that occurs in names.
_IGNORED = re.compile(r"[\u0300-\u036f\s" + re.escape(string.punctuation) + r"\u00b7\u2010-\u205e\u3000-\u303f\u30fb]+")
_ASCII_KEY = str.maketrans("", "", string.whitespace + string.punctuation)


LEAST_SYNONYMS = 99
"""Smallest :attr:`FilterOptions.max_synonyms`: tokens with a hundred near-synonyms and more are known."""


@dataclass(frozen=True)
class FilterOptions:
    """Which names are kept.

    Raises:
        SettingsError: At construction, for a value out of its range.
    """

    min_tokens: int = 2
    """Drop names with fewer tokens. Names with fewer tokens than an identity has vectors are dropped in any case."""
    max_tokens: int | None = None
    """Drop names with more tokens; ``None`` keeps them and ignores the tokens beyond an identity's vectors."""
    drop_duplicates: bool = True
    """Drop a name that occurred before (ignoring case, accents, spaces and punctuation), or whose tokens did."""
    max_repeats: int | None = None
    """How many kept names may share one token in one column; later ones are dropped as too common. ``None`` keeps all,
    as the paper does, in whose basis a first name shared by fifty celebrities has fifty times the weight."""
    max_synonyms: int | None = None
    """Drop names of which a used token has more near-synonyms in CLIP-L; see :func:`celeb_basis.names.lists.near_synonyms`.
    To that encoder, words such as "de", "man" or "best" are nearly the same as hundreds of others, so they carry no identity.
    ``None`` keeps them: the names that make a basis are those of every identity that was learned on it."""

    def __post_init__(self) -> None:
        _check_whole("min_tokens", self.min_tokens)
        if not isinstance(self.drop_duplicates, bool):
            raise SettingsError(f"drop_duplicates is {self.drop_duplicates!r}: choose yes or no.")
        if self.max_repeats is not None:
            _check_whole("max_repeats", self.max_repeats)
        if self.max_synonyms is not None:
            _check_whole("max_synonyms", self.max_synonyms)
            if self.max_synonyms < LEAST_SYNONYMS:
                raise SettingsError(
                    f"max_synonyms is {self.max_synonyms}: choose at least {LEAST_SYNONYMS}, since tokens with fewer "
                    "near-synonyms are not known."
                )
        if self.max_tokens is not None:
            _check_whole("max_tokens", self.max_tokens)
            if self.max_tokens < self.min_tokens:
                raise SettingsError(
                    f"max_tokens is {self.max_tokens}, below min_tokens: choose at least {self.min_tokens}."
                )


@dataclass(frozen=True)
class Dropped:
    """A name that was dropped."""

    name: str
    reason: str
    """For display, e.g. ``"same tokens as Ansel Adams"``."""
    kind: Kind
    """The rule that dropped it, for counting."""


@dataclass(frozen=True, eq=False)
class FilteredNames:
    """The usable names of a list for one text encoder."""

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
    face_check: FaceCheck | None = None,
) -> FilteredNames:
    """Apply the rules of ``options`` and then, only to names that passed them, ``face_check``.

    Args:
        names: The list.
        tokenize: Returns the token ids of each text, without special tokens; called once.
        options: The rules.
        tokens: ``E``, the token vectors of an identity.
        face_check: An additional check of each name.

    Raises:
        SettingsError: If no name can have ``tokens`` tokens.
        HostError: If the tokenizer does not return as many lists of tokens as there are names.
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
            f"The tokenizer returned {len(ids)} lists of tokens for {len(names.names)} names: check the host's integration."
        )
    rules = _Rules(options, tokens)
    kept: list[int] = []
    dropped: list[Dropped] = []
    for index, (name, name_ids) in enumerate(zip(names.names, ids, strict=True)):
        problem = rules.problem(name, name_ids)
        if problem is None and face_check is not None and (reason := face_check(name)) is not None:
            problem = (reason, "face")
            rules.remember(name)
        if problem is None:
            kept.append(index)
            rules.keep(name, name_ids)
        else:
            dropped.append(Dropped(name, *problem))
    token_ids = np.array([ids[index][:tokens] for index in kept], dtype=np.int64).reshape(len(kept), tokens)
    return FilteredNames(tuple(names.names[index] for index in kept), token_ids, tuple(dropped))


class _Rules:
    """The rules on names and tokens, with what they have to remember about earlier names."""

    def __init__(self, options: FilterOptions, tokens: int) -> None:
        self._options = options
        self._tokens = tokens
        self._fewest = max(options.min_tokens, tokens)
        self._seen_names: dict[str, str] = {}
        self._seen_tokens: dict[tuple[int, ...], str] = {}
        self._repeats: Counter[tuple[int, int]] = Counter()

    def problem(self, name: str, ids: Sequence[int]) -> tuple[str, Kind] | None:
        """Why a name is dropped, and by which rule; ``None`` if it passes."""
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
        if options.max_synonyms is not None:
            for column, token in self._columns(ids):
                if (count := near_synonyms().get(token, 0)) > options.max_synonyms:
                    return (
                        f"token {column + 1} has {count} near-synonyms, more than {options.max_synonyms}",
                        "vague token",
                    )
        if options.max_repeats is not None:
            for place in self._columns(ids):
                if self._repeats[place] >= options.max_repeats:
                    return (
                        f"token {place[0] + 1} is too common: {_counted(self._repeats[place], 'kept name')} "
                        f"already {'has' if self._repeats[place] == 1 else 'have'} it",
                        "too common token",
                    )
        return None

    def remember(self, name: str) -> None:
        """Remember a name that failed the face check, so that other spellings of it are not generated as well."""
        if self._options.drop_duplicates:
            self._seen_names[comparison_key(name)] = name

    def keep(self, name: str, ids: Sequence[int]) -> None:
        """Remember a kept name and its tokens; the tokens of a name without a face can be used by the next one."""
        self.remember(name)
        if self._options.drop_duplicates:
            self._seen_tokens[tuple(ids[: self._tokens])] = name
        if self._options.max_repeats is not None:
            self._repeats.update(self._columns(ids))

    def _columns(self, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
        return enumerate(itertools.islice(ids, self._tokens))


def comparison_key(name: str) -> str:
    """The same key for all spellings of a name, ignoring case, accents, spaces and punctuation.

    Only the accents of Latin, Greek and Cyrillic are ignored: in other scripts such marks are letters.
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


Progress = Callable[[str, "str | None"], None]
"""Called after each name with the name and why it is not usable, or ``None``."""


class GeneratedFaceCheck:
    """A :data:`FaceCheck` that lets the model generate pictures of each name and compares the faces in them.

    A name fails if one of its pictures shows no face, or if the mean cosine similarity between the face vectors, over all
    pairs of its pictures, is below ``same_face``. With a single picture, only a face is required. In a picture with
    several faces the largest one counts.
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
        """Configure the check.

        Args:
            model: The model that generates.
            faces: Detects and embeds the faces.
            template: The prompt, with ``{}`` for the name.
            pictures: Number of pictures per name.
            same_face: Lowest mean cosine similarity.
            seed: Picture ``i`` is generated with ``seed + i``.
            steps: Sampling steps.
            progress: Called after each name; an exception that it raises ends the work.

        Raises:
            SettingsError: For a value out of its range.
        """
        if template.count("{}") != 1:
            raise SettingsError(f"The template {template!r} must contain {{}} exactly once, for the name: change it.")
        if not 1 <= pictures <= 64:
            raise SettingsError(f"pictures is {pictures}: choose from 1 to 64.")
        if not -1.0 <= same_face <= 1.0:
            raise SettingsError(f"same_face is {same_face}: choose a cosine from -1 to 1.")
        if not 1 <= steps <= 1000:
            raise SettingsError(f"steps is {steps}: choose from 1 to 1000.")
        if not 0 <= seed < 2**32:
            raise SettingsError(f"seed is {seed}: choose from 0 to {2**32 - 1}.")
        self._model = model
        self._faces = faces
        self._template = template
        self._pictures = pictures
        self._same_face = same_face
        self._seed = seed
        self._steps = steps
        self._progress = progress

    def __call__(self, name: str) -> str | None:
        """Check one name; returns why it is not usable, or ``None`` if it is.

        Raises:
            HostError: If the model generates fewer pictures than requested.
        """
        problem = self._problem(name)
        if self._progress is not None:
            self._progress(name, problem)
        return problem

    def _problem(self, name: str) -> str | None:
        # replace, not format: braces in a template or a name have no meaning here.
        prompt = self._template.replace("{}", name)
        request = GenerationRequest(prompt=prompt, count=self._pictures, seed=self._seed, steps=self._steps)
        vectors: list[Floats] = []
        for picture in self._model.generate(request):
            pixels = np.array(picture.convert("RGB"), dtype=np.uint8)
            found = self._faces.detect(pixels)
            if not found:
                # The rest is not generated: a model generates one picture after the other.
                return f"no face in generated picture {len(vectors) + 1} of {self._pictures}"
            vectors.append(self._faces.embed([self._faces.align(pixels, found[0].landmarks)])[0])
        if len(vectors) != self._pictures:
            raise HostError(
                f"The model generated {len(vectors)} of {self._pictures} pictures for {name!r}: if it was interrupted, "
                "start the filter again."
            )
        if self._pictures == 1:
            return None
        cosine = float(np.mean([_cosine(one, other) for one, other in combinations(vectors, 2)]))
        # Not "cosine < ...": NaN has to fail too.
        if not cosine >= self._same_face:
            return f"a different face each time (cosine similarity {cosine:.2f}, required {self._same_face:.2f})"
        return None


def _cosine(one: Floats, other: Floats) -> float:
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(np.dot(one, other)) / lengths if lengths > 0 else float("nan")
