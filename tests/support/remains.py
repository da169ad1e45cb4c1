"""Finding traces of a person in folders: a name, or bytes of a photo or image of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

PIECE = 64
"""Bytes of a picture file that no other file holds by chance."""


def remains(folders: Iterable[Path], name: str, *contents: bytes) -> list[str]:
    """Every file below ``folders`` whose path or content holds ``name``, or a piece of one of ``contents``."""
    wanted = [name.encode(), *(content[len(content) // 2 :][:PIECE] for content in contents)]
    assert all(len(piece) >= 4 for piece in wanted)
    found = []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            data = path.read_bytes() if path.is_file() else b""
            if name in str(path.relative_to(folder)) or any(piece in data for piece in wanted):
                found.append(str(path))
    return found
