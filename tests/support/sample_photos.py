"""Real photos inside installed packages, for tests. They are read from there, never copied."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from celeb_basis.errors import MissingPackageError


def sample_photos() -> dict[str, Path]:
    """Photos by a short name: ``"six"`` (six faces in one picture) and ``"one"`` (one man, a tight 112x112 crop).

    Raises: :class:`MissingPackageError` if insightface, whose samples they are, is not there or lacks them.
    """
    # find_spec of a top-level package does not import it.
    spec = importlib.util.find_spec("insightface")
    roots = [Path(root) for root in (spec.submodule_search_locations or [])] if spec else []
    for root in roots:
        images = root / "data" / "images"
        photos = {"six": images / "t1.jpg", "one": images / "Tom_Hanks_54745.png"}
        if all(photo.is_file() for photo in photos.values()):
            return photos
    raise MissingPackageError(
        'The sample photos come with insightface, which is not here: run `python -m pip install "insightface>=2.1"`.'
    )
