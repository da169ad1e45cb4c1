"""Who is in a mixture: its recipe names its parts, and parts of parts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from celeb_basis.files import safetensors_remarks
from celeb_basis.identities.library import Library, name_key


def people_in(recipe: Mapping[str, Any]) -> tuple[str, ...]:
    """Names in a recipe as :mod:`celeb_basis.identities.blending` writes it into an identity's settings."""
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


def mixtures_of(library: Library, names: Iterable[str]) -> tuple[str, ...]:
    """Everybody in the library who was mixed of somebody of ``names``, and of those again."""
    recipes = {name: {name_key(part) for part in people_in(recipe)} for name, recipe in _recipes(library).items()}
    start = {name_key(name) for name in names}
    reached, found = set(start), []
    while new := [
        name for name in recipes if name not in found and name_key(name) not in start and recipes[name] & reached
    ]:
        found += new
        reached |= {name_key(name) for name in new}
    return tuple(sorted(found))


def rename_in_mixtures(library: Library, name: str, new_name: str) -> None:
    """Who is called ``new_name`` now is called so in the recipes of the library too.

    Raises: :class:`FileError` if a mixture cannot be written.
    """
    for mixture, recipe in _recipes(library).items():
        if name_key(name) in map(name_key, people_in(recipe)):
            identity = library.load(mixture)
            settings = _renamed(identity.metadata.settings, name_key(name), new_name)
            library.add(replace(identity, metadata=replace(identity.metadata, settings=settings)), replace=True)


def _recipes(library: Library) -> dict[str, Mapping[str, Any]]:
    """The recipes of everybody who was mixed. Only headers are read: there may be thousands of people."""
    found: dict[str, Mapping[str, Any]] = {}
    for name, path in library.files():
        text = safetensors_remarks(path).get("identity", "")
        if '"blended"' not in text:
            continue
        try:
            described = json.loads(text)
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
