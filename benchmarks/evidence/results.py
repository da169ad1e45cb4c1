"""Finished cells on the disk: one JSON file each, named by all that it depends on, so that a killed run goes on."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celeb_basis.files import write_json

_FORMAT = 1


@dataclass(frozen=True)
class Cell:
    """One contestant, one group of strangers learned together, one seed."""

    contestant: str
    description: dict[str, Any]
    """Everything the contestant's result depends on, JSON-ready."""
    group: tuple[str, ...]
    seed: int
    measured: dict[str, Any]
    """How it is measured: the world's key, pictures of each prompt and so on."""

    def as_dict(self) -> dict[str, Any]:
        """The full description."""
        return {
            "format": _FORMAT,
            "contestant": self.contestant,
            "description": self.description,
            "group": list(self.group),
            "seed": self.seed,
            "measured": self.measured,
        }

    @property
    def key(self) -> str:
        """Hash of the full description."""
        text = json.dumps(self.as_dict(), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:20]


@dataclass(frozen=True)
class Results:
    """A folder of finished cells."""

    folder: Path

    def get(self, cell: Cell) -> list[dict[str, Any]] | None:
        """The cell's milestones, or ``None`` if it is not finished or its file is not whole."""
        try:
            stored = json.loads(self._path(cell).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(stored, dict) or stored.get("cell") != cell.as_dict():
            return None
        milestones: list[dict[str, Any]] = stored["milestones"]
        return milestones

    def put(self, cell: Cell, milestones: list[dict[str, Any]]) -> None:
        """Keep a finished cell, whole or not at all."""
        write_json(self._path(cell), {"cell": cell.as_dict(), "milestones": milestones})

    def all(self) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """Every finished cell's description and milestones."""
        for path in sorted(self.folder.glob("cells/*/*.json")):
            stored = json.loads(path.read_text(encoding="utf-8"))
            yield stored["cell"], stored["milestones"]

    def _path(self, cell: Cell) -> Path:
        folder = re.sub(r"[^a-z0-9]+", "-", cell.contestant.lower()).strip("-")
        return self.folder / "cells" / folder / f"{cell.key}.json"
