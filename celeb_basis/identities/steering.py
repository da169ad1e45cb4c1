"""Steering a person in the celebrities' space: more like a celebrity or away from them, and along groups of the list of names.

A direction has the length of the celebrities' own spread. The person is scaled to that spread, moved by the strength times
the direction, and put back to the distance to the mean that it had: so a strength means the same on every checkpoint and of
every person, and the prompt keeps its weight. At strength 1, a person is as much the celebrity as themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from celeb_basis.diffusion_model import ModelInfo
from celeb_basis.errors import IdentityError, NamesError, SettingsError
from celeb_basis.identities.blending import celebrity_index, inherited, recipe_before
from celeb_basis.identities.expand import check_bases, check_model, new_identity, tensors_of
from celeb_basis.identities.identity import Identity
from celeb_basis.method import Basis
from celeb_basis.names.lists import MIN_GROUP, NameList

_CANCELED = 1e-3
"""Length of a row, in spreads, of which no direction is left."""


@dataclass(frozen=True)
class Steering:
    """Where a person is steered to. Strengths are in units of the celebrities' own spread, -1 to 1.

    Raises:
        SettingsError: At construction, for a strength out of its range, or a name without letters.
    """

    celebrities: tuple[tuple[str, float], ...] = ()
    """Names and strengths: above 0 more like the celebrity, below 0 away from them."""
    groups: tuple[tuple[str, float], ...] = ()
    """Groups of the list of names and strengths: above 0 toward the group, below 0 away from it."""

    def __post_init__(self) -> None:
        for name, strength in (*self.celebrities, *self.groups):
            if not name.strip():
                raise SettingsError("There is no name to steer to: give a celebrity or a group of the list of names.")
            if not -1 <= strength <= 1:
                raise SettingsError(f"The strength of {name!r} is {strength}: choose a value from -1 to 1.")

    def __bool__(self) -> bool:
        return any(strength for _, strength in (*self.celebrities, *self.groups))


def steer(
    identity: Identity,
    steering: Steering,
    bases: Sequence[Basis],
    info: ModelInfo,
    names: NameList,
    *,
    name: str | None = None,
) -> Identity:
    """``identity`` steered, at the same distance to the mean, as a new identity whose metadata say what was done.

    Args:
        identity: The identity.
        steering: Celebrities and groups with strengths; several add up.
        bases: The checkpoint's bases, one for each text encoder.
        info: The checkpoint.
        names: The list of names that the bases were made from, for its groups.
        name: What the result is called; as before if ``None``.

    Raises:
        BasisError: The bases do not hold a celebrity; the message suggests similar names.
        NamesError: The list has no such group, or too few names on one of its sides.
        IdentityError: The strengths cancel the person out.
        WrongModelError: The bases do not fit.
    """
    check_model(identity, info)
    check_bases(identity, bases, info)
    celebrities = [
        (bases[0].names[celebrity_index(celebrity, bases[0])], strength) for celebrity, strength in steering.celebrities
    ]
    groups = [(names.find_group(group)[0], strength) for group, strength in steering.groups]
    moved = []
    for basis, own in zip(bases, tensors_of(identity.coefficients), strict=True):
        pull = torch.zeros_like(own)
        for celebrity, strength in celebrities:
            pull += strength * celebrity_direction(celebrity, basis)
        for group, strength in groups:
            pull += strength * group_direction(group, names, basis)
        moved.append(turned(own, pull, identity.name))
    recipe: dict[str, Any] = {"operation": "steer", "person": identity.name}
    recipe |= {"celebrities": [list(one) for one in celebrities]} if celebrities else {}
    recipe |= {"groups": [list(one) for one in groups]} if groups else {}
    recipe |= recipe_before(identity)
    details = inherited([identity])
    return new_identity(name or identity.name, moved, bases, info, source="blended", settings=recipe, **details)


def celebrity_direction(celebrity: str, basis: Basis) -> torch.Tensor:
    """``(E, K)``: from the mean to a celebrity, each token vector's row of length 1.

    Raises:
        BasisError: The basis does not hold the celebrity.
    """
    row = basis.name_coefficients[celebrity_index(celebrity, basis)].cpu().float()
    return torch.nn.functional.normalize(row, dim=-1)


def group_direction(group: str, names: NameList, basis: Basis) -> torch.Tensor:
    """``(E, K)``: from the mean of the names that the list's column counts to other groups to the mean of the group.

    The rows together have the length of ``E`` rows of 1: a position that separates the groups better (the first name,
    for women and men) moves more.

    Raises:
        NamesError: There is no such group, or it or the others have fewer than :data:`MIN_GROUP` names in the basis.
    """
    group, column = names.find_group(group)
    value_of = {
        name: row[column]
        for name, row in zip(names.names, names.columns, strict=True)
        if len(row) > column and row[column]
    }
    inside = torch.tensor([value_of.get(name) == group for name in basis.names])
    outside = torch.tensor([value_of.get(name, group) != group for name in basis.names])
    for members, what in ((inside, f"in {group}"), (outside, f"in other groups than {group}")):
        if (count := int(members.sum())) < MIN_GROUP:
            raise NamesError(
                f"Of the basis' names, {count} are {what}, but at least {MIN_GROUP} are needed to steer: choose another "
                "group, or a longer list of names."
            )
    rows = basis.name_coefficients.cpu().float()
    difference = rows[inside].mean(dim=0) - rows[outside].mean(dim=0)
    length = difference.norm().clamp(min=torch.finfo(torch.float32).tiny)
    direction: torch.Tensor = difference * (math.sqrt(basis.positions) / length)
    return direction


def steered_words(settings: Mapping[str, Any]) -> str:
    """What was steered, in a few words for a page, from the settings in an identity's metadata; empty for nothing."""
    words: list[str] = []
    step: Any = settings
    while isinstance(step, dict):  # a file may hold anything
        if step.get("operation") == "steer":
            for key, toward, away in (("celebrities", "more like", "away from"), ("groups", "toward", "away from")):
                pairs = step.get(key)
                for pair in pairs if isinstance(pairs, list) else []:
                    if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[1], (int, float)) and pair[1]:
                        words.append(f"{toward if pair[1] > 0 else away} {pair[0]} ({abs(pair[1]):.2g})")
        step = step.get("of")
    return ", ".join(words)


def turned(own: torch.Tensor, pull: torch.Tensor, name: str = "the person") -> torch.Tensor:
    """Coefficients moved by ``pull`` at their own distance to the mean.

    Args:
        own: ``(E, K)``, of any length.
        pull: ``(E, K)`` in spreads, of which a row of ``own`` counts as one. A row of zeros leaves its row bit for bit.
        name: Whom they belong to, for the message.

    Raises:
        IdentityError: A row of both cancels out, so that no direction is left.
    """
    radius = own.norm(dim=-1, keepdim=True)
    target = torch.nn.functional.normalize(own, dim=-1) + pull
    length = target.norm(dim=-1, keepdim=True)
    if bool(((length < _CANCELED) & (radius > 0)).any()):
        raise IdentityError(f"At these strengths nothing is left of {name!r}: choose smaller ones.")
    return torch.where((pull == 0).all(dim=-1, keepdim=True), own, target * (radius / length.clamp(min=_CANCELED)))
