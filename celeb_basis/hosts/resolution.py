"""The side in pixels of the square pictures that a checkpoint was made for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal


def told_resolution(config: Any) -> int | None:
    """``celeb_basis.resolution`` in the content of a checkpoint's config, as ``save_for_webui`` writes it."""
    try:
        return int(config["celeb_basis"]["resolution"]) or None
    except (ValueError, TypeError, KeyError):
        return None


def family_resolution(family: Literal["sd1", "sd2", "sdxl"], predicts_v: Callable[[], bool]) -> int:
    """What a family's checkpoints were made for. The config published with SD2's says the same for both of its kinds.

    Only of SD2 it is asked whether it ``predicts_v``: other models that a host has loaded, such as those of flow
    matching, may have no answer.
    """
    if family == "sdxl":
        return 1024
    return 768 if family == "sd2" and predicts_v() else 512
