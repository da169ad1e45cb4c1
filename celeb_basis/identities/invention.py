"""Inventing people: points of the celebrities' space that are nobody. No photo, no training and no face network is needed.

Each way makes coefficients ``(E, K)`` for every text encoder of the checkpoint, from a seed and the celebrities' own
coefficients. *Mixed* takes each token vector from another celebrity. *Gaussian* draws from the normal distribution that has
the celebrities' mean and covariance, over all positions and text encoders together. Groups of names shift both, and
candidates that were liked or not pull them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch

from celeb_basis.diffusion_model import ModelInfo
from celeb_basis.errors import BasisError, NamesError, SettingsError
from celeb_basis.identities.expand import check_bases, new_identity
from celeb_basis.identities.identity import Identity
from celeb_basis.method import Basis
from celeb_basis.names.lists import NameList
from celeb_basis.names.suggestions import suggested_name

Way = Literal["mixed", "gaussian"]
"""How the coefficients of an invented person are drawn."""

SOURCE: Literal["invented"] = "invented"
"""``IdentityMetadata.source`` of an invented person."""

CONSENT = "Invented: this person does not exist, so there is nobody to ask."
"""``IdentityMetadata.consent`` of an invented person, which blends and copies keep."""

SHEET = 9
"""People of one sheet."""

MIN_NAMES = 8
"""Fewest celebrities to invent from: of fewer, the people would resemble one another and them."""

MOST_ALIKE = 0.9
"""Highest cosine to a celebrity, all token vectors together; a person of two halves has 0.7 to each."""

MAX_SEED = 2**32 - 1

_TRIES = 64

Rows: TypeAlias = tuple[npt.NDArray[Any], ...]
"""``(E, K)`` coefficients for each text encoder."""


@dataclass(frozen=True)
class InventionSettings:
    """What invented people are like.

    Raises:
        SettingsError: At construction, for a value out of its range.
    """

    way: Way = "mixed"
    groups: tuple[str, ...] = ()
    """Groups of the list of names: people of any group of a column, and of a group of each column that is named."""
    leaning: float = 1.0
    """Weight of the groups: 0 is none, 1 leaves out all other celebrities."""
    distance: float = 1.0
    """Distance to the mean in units of the celebrities' own spread: less is more average, more is more peculiar."""
    alike: float = 0.7
    """Cosine to the people of whom more is wanted, 0 to 0.95."""
    unlike: float = 0.4
    """Negative cosine to the people of whom less is wanted, 0 to 0.95."""

    def __post_init__(self) -> None:
        if self.way not in get_args(Way):
            raise SettingsError(f"The way is {self.way!r}: choose one of {', '.join(get_args(Way))}.")
        ranges = (("leaning", 0, 1), ("distance", 0.25, 2), ("alike", 0, 0.95), ("unlike", 0, 0.95))
        for name, low, high in ranges:
            if not low <= getattr(self, name) <= high:
                raise SettingsError(f"{name} is {getattr(self, name)}: choose a value from {low} to {high}.")


@dataclass(frozen=True)
class _Draw:
    """One person's rows before candidates that were liked pull them, and whose vectors they are."""

    rows: Rows
    vectors_of: tuple[str, ...] = ()


class Inventor:
    """Invents people for one checkpoint.

    Args:
        bases: The checkpoint's bases, one for each text encoder.
        info: The checkpoint.
        names: The list of names that the bases were made from, for its groups.
        settings: What the people are like.

    Raises:
        NamesError: A group is unknown, or too few celebrities are in the chosen ones.
        BasisError: The bases have too few names in common.
    """

    def __init__(
        self, bases: Sequence[Basis], info: ModelInfo, names: NameList, settings: InventionSettings | None = None
    ) -> None:
        self.bases, self.info, self.settings = tuple(bases), info, settings or InventionSettings()
        self._list = names
        shared = set.intersection(*(set(basis.names) for basis in self.bases)) if self.bases else set()
        self._names = tuple(name for name in self.bases[0].names if name in shared) if self.bases else ()
        if len(self._names) < MIN_NAMES:
            raise BasisError(
                f"The text encoders of {info.name} know {len(self._names)} of the names, but at least {MIN_NAMES} are "
                "needed to invent people: give a longer list of names."
            )
        self._rows = tuple(_rows_of(basis, self._names) for basis in self.bases)
        """``(N, E, K)`` for each text encoder, the same names in the same order."""
        self._weights = _weights(self._names, names, self.settings)
        self._means = tuple(np.tensordot(self._weights, rows, 1) for rows in self._rows)

    def invent(
        self,
        seed: int,
        *,
        more: Sequence[Identity] = (),
        less: Sequence[Identity] = (),
        name: str = "",
        taken: Collection[str] = (),
    ) -> Identity:
        """The invented person of a seed: the same one every time.

        Args:
            seed: From 0 to :data:`MAX_SEED`.
            more: People whom this one is to resemble.
            less: People whom this one is not to resemble.
            name: What the person is called; by default a name that no celebrity of the list has.
            taken: Names that are not suggested.

        Raises:
            SettingsError: The seed is out of its range, or the same person is in ``more`` and ``less``.
            WrongModelError: Someone in ``more`` or ``less`` does not fit the checkpoint.
        """
        if not 0 <= seed <= MAX_SEED:
            raise SettingsError(f"The seed is {seed}: choose a value from 0 to {MAX_SEED}.")
        if both := {one.content_hash for one in more} & {one.content_hash for one in less}:
            called = next(one.name for one in more if one.content_hash in both)
            raise SettingsError(f"{called} is in both more and less: choose one of the two.")
        for other in (*more, *less):
            check_bases(other, self.bases, self.info)
        generator = np.random.default_rng([seed, 20230602])
        drawn = self._person(generator, more, less)
        women, men = (any(group.casefold() == one for group in self.settings.groups) for one in ("women", "men"))
        name = name or suggested_name(seed, self._names, taken, women=women or not men, men=men or not women)
        return new_identity(
            name,
            [torch.from_numpy(np.ascontiguousarray(rows, np.float32)) for rows in drawn.rows],
            self.bases,
            self.info,
            source=SOURCE,
            consent=CONSENT,
            settings=self._recipe(seed, drawn, more, less),
        )

    def changed(self, settings: InventionSettings) -> Inventor:
        """An inventor of the same checkpoint and list with other settings."""
        return Inventor(self.bases, self.info, self._list, settings)

    def nearest(self, identity: Identity) -> tuple[str, float]:
        """The celebrity with the highest cosine to a person, all positions together, averaged over text encoders."""
        cosines = self._cosines(identity.coefficients)
        place = int(cosines.argmax())
        return self._names[place], float(cosines[place])

    def _person(self, generator: np.random.Generator, more: Sequence[Identity], less: Sequence[Identity]) -> _Draw:
        for _ in range(_TRIES):
            drawn = self._pulled(self._drawn(generator), more, less)
            if float(self._cosines(drawn.rows).max()) < MOST_ALIKE:
                return drawn
        raise NamesError(
            "Everyone who was invented is like one of the celebrities: choose fewer or other groups, or a longer list of "
            "names."
        )

    def _drawn(self, generator: np.random.Generator) -> _Draw:
        distance = self.settings.distance
        if self.settings.way == "gaussian":
            noise = generator.standard_normal(len(self._names)) * np.sqrt(self._weights)
            # Noise for each celebrity, not for each component: positions and text encoders stay correlated.
            return _Draw(
                tuple(
                    mean + distance * np.tensordot(noise, rows - mean, 1)
                    for rows, mean in zip(self._rows, self._means, strict=True)
                )
            )
        positions = self.bases[0].positions
        places = generator.choice(len(self._names), positions, replace=False, p=self._weights)
        rows = tuple(
            np.stack([mean[e] + distance * (rows[place, e] - mean[e]) for e, place in enumerate(places)])
            for rows, mean in zip(self._rows, self._means, strict=True)
        )
        return _Draw(rows, tuple(self._names[place] for place in places))

    def _pulled(self, drawn: _Draw, more: Sequence[Identity], less: Sequence[Identity]) -> _Draw:
        """The draw turned toward ``more`` and away from ``less``, at the same distance to the mean."""
        if not more and not less:
            return drawn
        turned = []
        for encoder, (rows, mean) in enumerate(zip(drawn.rows, self._means, strict=True)):
            pull = np.zeros_like(mean)
            for people, amount in ((more, self.settings.alike), (less, -self.settings.unlike)):
                if people:
                    directions = np.stack([_unit(one.coefficients[encoder] - mean) for one in people])
                    pull += amount * _unit(directions.sum(0))
            length = np.linalg.norm(pull, axis=-1, keepdims=True)
            pull *= np.minimum(1, 0.95 / np.maximum(length, 1e-12))
            length = np.minimum(length, 0.95)
            own = rows - mean
            across = own - (own * _unit(pull)).sum(-1, keepdims=True) * _unit(pull)
            radius = np.linalg.norm(own, axis=-1, keepdims=True)
            turned.append(mean + radius * (pull + np.sqrt(1 - length**2) * _unit(across)))
        return replace(drawn, rows=tuple(turned))

    def _cosines(self, coefficients: Rows) -> npt.NDArray[np.float64]:
        """``(N,)`` cosines to the celebrities."""
        found = []
        for rows, own in zip(self._rows, coefficients, strict=True):
            known, wanted = rows.reshape(len(rows), -1), np.asarray(own, np.float64).reshape(-1)
            lengths = np.linalg.norm(known, axis=1) * np.linalg.norm(wanted)
            found.append(known @ wanted / np.maximum(lengths, 1e-12))
        cosines: npt.NDArray[np.float64] = np.mean(found, axis=0)
        return cosines

    def _recipe(self, seed: int, drawn: _Draw, more: Sequence[Identity], less: Sequence[Identity]) -> dict[str, Any]:
        """The settings of the identity: with the same checkpoint and list, they make the same person."""
        settings = self.settings
        recipe: dict[str, Any] = {"operation": "invent", "way": settings.way, "seed": seed}
        recipe |= {"distance": settings.distance}
        if settings.groups:
            recipe |= {"groups": list(settings.groups), "leaning": settings.leaning}
        if more:
            recipe |= {"more": [one.content_hash for one in more], "alike": settings.alike}
        if less:
            recipe |= {"less": [one.content_hash for one in less], "unlike": settings.unlike}
        if drawn.vectors_of:
            recipe["vectors_of"] = list(drawn.vectors_of)
        return recipe


def invented_recipe(settings: Mapping[str, Any]) -> str:
    """How an invented person was made, in a few words for a page, from the settings in the identity's metadata."""
    groups = settings.get("groups")
    groups = [str(group) for group in groups] if isinstance(groups, list) else []  # a file may hold anything
    leaning = f", leaning to {' and '.join(groups)}" if groups else ""
    return f"invented from the celebrities{leaning} (seed {settings.get('seed', '?')})"


def _rows_of(basis: Basis, names: Sequence[str]) -> npt.NDArray[np.float64]:
    place = {name: row for row, name in enumerate(basis.names)}
    rows: npt.NDArray[np.float64] = basis.name_coefficients.cpu().double().numpy()
    return rows[[place[name] for name in names]]


def _weights(used: Sequence[str], names: NameList, settings: InventionSettings) -> npt.NDArray[np.float64]:
    """``(N,)`` shares of the celebrities, which add up to 1."""
    weights = np.ones(len(used))
    if settings.groups:
        chosen = _chosen_groups(names, settings.groups)
        rows = dict(zip(names.names, names.columns, strict=True))
        fits = np.array([all(_value(rows.get(n, ()), c) in wanted for c, wanted in chosen.items()) for n in used])
        if (count := int(fits.sum())) < MIN_NAMES:
            who = "no celebrity is" if not count else f"only {count} celebrities are"
            raise NamesError(
                f"In {', '.join(settings.groups)} together, {who}, but at least {MIN_NAMES} are needed: choose fewer groups."
            )
        weights = np.where(fits, 1.0, 1.0 - settings.leaning)
    shares: npt.NDArray[np.float64] = weights / weights.sum()
    return shares


def _chosen_groups(names: NameList, groups: Sequence[str]) -> dict[int, set[str]]:
    """The chosen groups of each column of the list."""
    chosen: dict[int, set[str]] = {}
    for group in groups:
        name, column = names.find_group(group)
        chosen.setdefault(column, set()).add(name)
    return chosen


def _value(row: Sequence[str], column: int) -> str:
    return row[column] if len(row) > column else ""


def _unit(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Rows of length 1; a row of zeros stays."""
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    unit: npt.NDArray[Any] = rows / np.where(length > 1e-12, length, 1)
    return unit
