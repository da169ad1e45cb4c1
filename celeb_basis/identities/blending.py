"""Blending identities, and moving one toward the mean or a celebrity. All of it is linear in the coefficients.

The celeb basis is affine (``z = m + c B``), so the weighted mean of coefficients is the weighted mean of token vectors.
Learned people lie on the unit sphere and celebrities well inside it; a mean of people lies inside it too, and looks
more average. ``keep_radius`` scales each row of the result to the mean distance that its parts have from the basis' mean.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from celeb_basis.diffusion_model import ModelInfo
from celeb_basis.errors import BasisError, IdentityError
from celeb_basis.identities.expand import check_bases, check_model, new_identity, tensors_of
from celeb_basis.identities.folder_lock import writing
from celeb_basis.identities.identity import Identity
from celeb_basis.identities.library import Library, name_key
from celeb_basis.method import Basis
from celeb_basis.reading import MAX_DESCRIPTION, MAX_HEADER, parse_json, safetensors_metadata

_MAX_WEIGHT = 1e6


def blend(
    parts: Sequence[tuple[Identity, float]],
    bases: Sequence[Basis],
    info: ModelInfo,
    *,
    name: str,
    keep_radius: bool = True,
) -> Identity:
    """The weighted mean of identities, as a new identity.

    Args:
        parts: Identities with weights. Weights are divided by their sum; a negative one removes a person's traits.
        bases: The checkpoint's bases, one for each text encoder.
        info: The checkpoint.
        name: What the blend is called.
        keep_radius: Whether each row of coefficients keeps the mean radius of its parts.

    Raises:
        IdentityError: There are no parts, or the weights are unusable.
        WrongModelError: A part does not fit the checkpoint.
    """
    if not parts:
        raise IdentityError("There is nobody to blend: give at least one identity with a weight.")
    for identity, weight in parts:
        if not abs(weight) <= _MAX_WEIGHT:
            raise IdentityError(f"The weight of {identity.name!r} is {weight}: give an ordinary number.")
        check_model(identity, info)
        check_bases(identity, bases, info)
    total = math.fsum(weight for _, weight in parts)
    if total <= 1e-6 * max(abs(weight) for _, weight in parts):
        raise IdentityError(
            "The weights of a blend must add up to more than nothing: give at least one positive weight."
        )
    shares = [weight / total for _, weight in parts]
    people = [tensors_of(identity.coefficients) for identity, _ in parts]
    mixed = [_mix([person[i] for person in people], shares, keep_radius) for i in range(len(bases))]
    recipe = {
        "operation": "blend",
        "parts": [[identity.name, share] for (identity, _), share in zip(parts, shares, strict=True)],
        "keep_radius": keep_radius,
    }
    return new_identity(name, mixed, bases, info, source="blended", settings=recipe, **inherited([p for p, _ in parts]))


def toward_mean(
    identity: Identity, amount: float, bases: Sequence[Basis], info: ModelInfo, *, name: str | None = None
) -> Identity:
    """``identity`` moved toward the mean of all names.

    Args:
        identity: The identity.
        amount: 0 leaves it as it is, 1 is the mean vector itself.
        bases: The checkpoint's bases, one for each text encoder.
        info: The checkpoint.
        name: What the result is called; as before if ``None``.

    Raises:
        IdentityError: The amount is not from 0 to 1.
        WrongModelError: The bases do not fit.
    """
    _check_amount(amount)
    check_model(identity, info)
    check_bases(identity, bases, info)
    moved = [coefficients * (1 - amount) for coefficients in tensors_of(identity.coefficients)]
    recipe = {"operation": "toward mean", "person": identity.name, "amount": amount} | recipe_before(identity)
    return new_identity(
        name or identity.name, moved, bases, info, source="blended", settings=recipe, **inherited([identity])
    )


def toward_celebrity(
    identity: Identity,
    celebrity: str,
    amount: float,
    bases: Sequence[Basis],
    info: ModelInfo,
    *,
    name: str | None = None,
    keep_radius: bool = True,
) -> Identity:
    """``identity`` moved toward a celebrity of the basis.

    Args:
        identity: The identity.
        celebrity: A name of the list that the bases were made from.
        amount: 0 leaves the identity as it is, 1 is the celebrity.
        bases: The checkpoint's bases, one for each text encoder.
        info: The checkpoint.
        name: What the result is called; as before if ``None``.
        keep_radius: Whether each row of coefficients keeps the mean radius of its parts.

    Raises:
        BasisError: The bases do not hold the celebrity; the message suggests similar names.
        IdentityError: The amount is not from 0 to 1.
        WrongModelError: The bases do not fit.
    """
    _check_amount(amount)
    check_model(identity, info)
    check_bases(identity, bases, info)
    rows = [basis.name_coefficients[celebrity_index(celebrity, basis)] for basis in bases]
    own = tensors_of(identity.coefficients)
    shares = [1 - amount, amount]
    mixed = [_mix([c, row.cpu().float()], shares, keep_radius) for c, row in zip(own, rows, strict=True)]
    recipe = {
        "operation": "toward celebrity",
        "person": identity.name,
        "celebrity": celebrity,
        "amount": amount,
        "keep_radius": keep_radius,
    } | recipe_before(identity)
    return new_identity(
        name or identity.name, mixed, bases, info, source="blended", settings=recipe, **inherited([identity])
    )


def _mix(parts: Sequence[torch.Tensor], shares: Sequence[float], keep_radius: bool) -> torch.Tensor:
    """Weighted mean of ``(E, K)`` coefficients; with ``keep_radius`` each row has the weighted mean of the rows' norms."""
    # A part without a share is left out, so that a share of 1 returns its part bit for bit.
    counted = [(part, share) for part, share in zip(parts, shares, strict=True) if share != 0]
    mixed = torch.stack([part * share for part, share in counted]).sum(dim=0)
    if not keep_radius or len(counted) == 1:
        return mixed
    weights = sum(abs(share) for _, share in counted)
    radius = torch.stack([part.norm(dim=-1) * (abs(share) / weights) for part, share in counted]).sum(dim=0)
    norm = mixed.norm(dim=-1)
    # Opposite people cancel out to the mean, which has no direction to be scaled along.
    factor = torch.where(norm > 1e-6 * radius, radius / norm.clamp(min=torch.finfo(norm.dtype).tiny), torch.ones(()))
    return mixed * factor.unsqueeze(-1)


def celebrity_index(celebrity: str, basis: Basis) -> int:
    """The row of a celebrity in a basis, whatever the case and spacing of the name.

    Raises:
        BasisError: The basis does not hold the celebrity; the message suggests similar names.
    """
    folded = {known.casefold(): index for index, known in enumerate(basis.names)}
    wanted = " ".join(celebrity.split()).casefold()
    if wanted in folded:
        return folded[wanted]
    close = [basis.names[folded[near]] for near in difflib.get_close_matches(wanted, folded, n=3, cutoff=0.6)]
    hint = f"did you mean {' or '.join(close)}?" if close else "choose one of the names that the basis was made from."
    raise BasisError(f"The basis of {basis.encoder} holds no celebrity {celebrity!r}: {hint}")


def _check_amount(amount: float) -> None:
    if not 0 <= amount <= 1:
        raise IdentityError(f"The amount is {amount}: give a number from 0 (as it is) to 1 (all the way).")


def recipe_before(identity: Identity) -> dict[str, Any]:
    """The recipe of a blend that is moved: it must not be lost, because it says who is in the blend."""
    return {"of": dict(identity.metadata.settings)} if identity.metadata.source == "blended" else {}


def inherited(people: Sequence[Identity]) -> dict[str, Any]:
    """What a blend inherits: the consent of everyone in it, and the face network if all parts have the same."""
    if len(people) == 1 and people[0].metadata.source == "blended":
        consents = dict.fromkeys([people[0].metadata.consent])  # it already says whose it is
    elif any(person.metadata.consent for person in people):
        consents = dict.fromkeys(f"{p.name}: {p.metadata.consent or 'nothing was noted'}" for p in people)
    else:
        consents = {}
    networks = {p.metadata.face_model for p in people}
    return {"consent": "\n".join(consents)[:20_000], "face_model": networks.pop() if len(networks) == 1 else ""}


# Blend recipes: the settings of a blended identity name its parts, and the parts of those


def people_in(recipe: Mapping[str, Any]) -> tuple[str, ...]:
    """The names in a recipe, which is the settings of a blended identity."""
    found = []
    parts = recipe.get("parts")
    for part in parts if isinstance(parts, list) else []:
        if isinstance(part, list) and part and isinstance(part[0], str):
            found.append(part[0])
    if isinstance(person := recipe.get("person"), str):
        found.append(person)
    if isinstance(inner := recipe.get("of"), dict):
        found += people_in(inner)
    return tuple(dict.fromkeys(found))


def blends_of(library: Library, names: Iterable[str]) -> tuple[str, ...]:
    """Identities of the library that were blended from any of ``names``, and those blended from them in turn."""
    recipes = {name: {name_key(part) for part in people_in(recipe)} for name, recipe in _recipes(library).items()}
    start = {name_key(name) for name in names}
    reached, found = set(start), []
    while new := [
        name for name in recipes if name not in found and name_key(name) not in start and recipes[name] & reached
    ]:
        found += new
        reached |= {name_key(name) for name in new}
    return tuple(sorted(found))


def add_blend(library: Library, blended: Identity, begun: float, *, replace: bool = False) -> Path:
    """Add a blend to the library, unless a part was deleted after ``begun``, a :func:`time.time`.

    Raises:
        IdentityError: A part was deleted, or the name is taken.
        FileError: The folder cannot be written to.
    """
    with writing(library.folder, create=True):
        for part in people_in(blended.metadata.settings):
            library.check_not_deleted(part, begun)
            if (now := library.name_now(part, begun)) != part:  # deleting the person has to find the blend
                blended = _with_renamed_part(blended, name_key(part), now)
        return library.add(blended, replace=replace, begun=begun)


def rename_in_blends(library: Library, name: str, new_name: str) -> None:
    """Rename an identity in the recipes of the library's blends.

    Raises:
        FileError: A blend cannot be written.
    """
    for blended, recipe in _recipes(library).items():
        if name_key(name) in map(name_key, people_in(recipe)):
            library.update(blended, partial(_with_renamed_part, key=name_key(name), new_name=new_name))


def _with_renamed_part(identity: Identity, key: str, new_name: str) -> Identity:
    settings = _renamed(identity.metadata.settings, key, new_name)
    return replace(identity, metadata=replace(identity.metadata, settings=settings))


def _recipes(library: Library) -> dict[str, Mapping[str, Any]]:
    """The recipes of all blends. Only headers are read: there may be thousands of identities."""
    found: dict[str, Mapping[str, Any]] = {}
    for name, path in library.files():
        text = safetensors_metadata(path, most_bytes=MAX_HEADER).get("identity", "")
        if '"blended"' not in text or len(text) > MAX_DESCRIPTION:
            continue
        try:
            described = parse_json(text)
        except ValueError:
            continue
        if (
            isinstance(described, dict)
            and described.get("source") == "blended"
            and isinstance(described.get("settings"), dict)
        ):
            found[name] = described["settings"]
    return found


def _renamed(recipe: Mapping[str, Any], key: str, new_name: str) -> dict[str, Any]:
    changed = dict(recipe)
    if isinstance(parts := changed.get("parts"), list):
        changed["parts"] = [
            [new_name, *part[1:]] if isinstance(part, list) and part and _is(part[0], key) else part for part in parts
        ]
    if _is(changed.get("person"), key):
        changed["person"] = new_name
    if isinstance(inner := changed.get("of"), dict):
        changed["of"] = _renamed(inner, key, new_name)
    return changed


def _is(name: Any, key: str) -> bool:
    return isinstance(name, str) and name_key(name) == key
