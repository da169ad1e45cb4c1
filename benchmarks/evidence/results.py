"""Measured cells on disk: ``results.jsonl`` holds one line for each, ``recipes.json`` what the lines refer to by name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from celeb_basis.errors import FileError
from celeb_basis.files import explained_os_errors, write_json, write_text

Measurements = list[dict[str, Any]]
"""One JSON-ready entry for each milestone that a run reached, in order."""

_PROTOCOLS, _RECIPES = "protocols", "recipes"


@dataclass(frozen=True)
class Cell:
    """One run: a method, the strangers it learns together, and a seed."""

    method: str
    recipe: dict[str, Any]
    """Everything the method's result depends on, JSON-ready."""
    group: tuple[str, ...]
    """Names of the strangers that are learned together."""
    seed: int
    milestones: tuple[float, ...]
    """Shares of the run at which it is measured."""
    protocol: dict[str, Any]
    """How it is measured: the testbed's key, the prompts, images per prompt and so on; JSON-ready."""

    @property
    def key(self) -> str:
        """The full description as canonical JSON: equal for cells that may stand in for each other."""
        parts = [self.method, self.recipe, self.group, self.seed, self.milestones, self.protocol]
        return json.dumps(parts, sort_keys=True, ensure_ascii=False)


Finished = tuple[Cell, Measurements]


class Results:
    """The finished cells of one folder. Saving is atomic and safe among processes, so a killed run can be resumed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "results.jsonl"
        self.recipes_path = folder / "recipes.json"

    def all(self) -> Iterator[Finished]:
        """Every finished cell, in the order of the file.

        Raises:
            FileError: If a line cannot be read, or refers to a recipe that is not there.
        """
        names = self._names()
        for number, line in enumerate(self._lines(), 1):
            try:
                stored = json.loads(line)
                cell = Cell(
                    method=stored["method"],
                    recipe=names[_RECIPES][stored["recipe"]],
                    group=tuple(stored["group"]),
                    seed=stored["seed"],
                    milestones=tuple(stored["milestones"]),
                    protocol=names[_PROTOCOLS][stored["protocol"]],
                )
                measurements: Measurements = stored["measurements"]
            except (ValueError, KeyError, TypeError) as error:
                raise FileError(
                    f"Line {number} of {self.path} is damaged, or its recipe is missing in {self.recipes_path.name} "
                    f"({error!r}): restore both files, or delete the line to measure that cell again."
                ) from error
            yield cell, measurements

    def by_key(self) -> dict[str, Measurements]:
        """The measurements of every finished cell by its :attr:`Cell.key`."""
        return {cell.key: measurements for cell, measurements in self.all()}

    def save(self, cell: Cell, measurements: Measurements) -> None:
        """Add a finished cell, or replace it.

        Both files are replaced atomically under a lock that worker processes share. The recipe is written first: a run
        that is killed between the two leaves a recipe without results, never a result without its recipe.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".results.lock"):
            finished = {known.key: (known, values) for known, values in self.all()}
            finished[cell.key] = cell, measurements
            self._write(list(finished.values()))

    def _write(self, finished: list[Finished]) -> None:
        names = self._names()
        before = json.dumps(names)
        lines = []
        for cell, measurements in finished:
            stored = {
                "method": cell.method,
                "recipe": _name_of(cell.recipe, names[_RECIPES], cell.method),
                "protocol": _name_of(cell.protocol, names[_PROTOCOLS], str(cell.protocol["testbed"])),
                "group": cell.group,
                "seed": cell.seed,
                "milestones": cell.milestones,
                "measurements": measurements,
            }
            order = (cell.method, stored["recipe"], stored["protocol"], cell.group, cell.seed, cell.milestones)
            lines.append((order, json.dumps(stored, sort_keys=True, separators=(",", ":"), ensure_ascii=False)))
        if json.dumps(names) != before:
            write_json(self.recipes_path, {section: dict(sorted(named.items())) for section, named in names.items()})
        write_text(self.path, "".join(f"{line}\n" for _, line in sorted(lines)))

    def _names(self) -> dict[str, dict[str, Any]]:
        sections: dict[str, dict[str, Any]] = {_PROTOCOLS: {}, _RECIPES: {}}
        if self.recipes_path.exists():
            with explained_os_errors(self.recipes_path, "read"):
                text = self.recipes_path.read_text(encoding="utf-8")
            try:
                sections |= json.loads(text)
            except (ValueError, TypeError) as error:
                raise FileError(f"{self.recipes_path} is damaged ({error}): restore it.") from error
        return sections

    def _lines(self) -> list[str]:
        if not self.path.exists():
            return []
        with explained_os_errors(self.path, "read"):
            return self.path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def _name_of(value: Mapping[str, Any], named: dict[str, Any], wanted: str) -> str:
    """The name of ``value`` in ``named``; it is added under ``wanted``, numbered where that name is taken."""
    known = next((name for name, other in named.items() if other == value), None)
    if known is not None:
        return known
    name, number = wanted, 1
    while name in named:
        number += 1
        name = f"{wanted} ({number})"
    named[name] = dict(value)
    return name
