"""The miniature Stable Diffusion that ships with the project: a small trained SD1, whose people are invented."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from celeb_basis.errors import HostError

if TYPE_CHECKING:
    from celeb_basis.names.lists import NameList


NAME = "miniature"
"""Its name in place of a checkpoint's path."""

MODEL = Path(__file__).with_name("model")
PHOTOS = MODEL.with_name("photos")
"""Photos of the demo's two people, on whom the miniature was not trained."""
NAMES = MODEL / "names.txt"
CELEBRITY_FACES = MODEL.with_name("name-faces")
"""Face embeddings of the celebrities as the miniature renders them, so that *quick* and *best* need not generate them."""


def shipped_model() -> Path:
    """The diffusers folder of the miniature.

    Raises:
        HostError: It is not installed.
    """
    if not (MODEL / "model_index.json").is_file():
        raise HostError(
            f"The miniature model is not in {MODEL}: install celeb-basis again, from a whole copy of its repository."
        )
    return MODEL


def shipped_model_names() -> NameList:
    """The names for which the miniature has learned a face, and from which its celeb basis is built.

    Raises:
        NamesError: They are not installed.
    """
    from celeb_basis.names.lists import name_list, read_names

    return name_list(read_names(NAMES).names, "the miniature's names")
