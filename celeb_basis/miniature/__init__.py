"""The miniature Stable Diffusion that comes with the project: trained, and small. Its people are synthetic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from celeb_basis.errors import HostError

if TYPE_CHECKING:
    from celeb_basis.names.lists import NameList


NAME = "miniature"
"""How it is called where a checkpoint is asked for."""

MODEL = Path(__file__).with_name("model")
PHOTOS = MODEL.with_name("photos")
"""Pictures of the demo's two people, whom the miniature was not trained on."""
NAMES = MODEL / "names.txt"
CELEBRITY_FACES = MODEL.with_name("name-faces")
"""How it draws its names, as the face networks of the demo see it: *quick* and *best* need not draw them first."""


def shipped_model() -> Path:
    """Its diffusers folder.

    Raises: :class:`HostError` if the installation lacks it.
    """
    if not (MODEL / "model_index.json").is_file():
        raise HostError(
            f"The miniature model is not in {MODEL}: install celeb-basis again, from a whole copy of its repository."
        )
    return MODEL


def shipped_model_names() -> NameList:
    """The names that the miniature knows a face for, and that its celeb basis is made of.

    Raises: :class:`celeb_basis.errors.NamesError` if the installation lacks them.
    """
    from celeb_basis.names.lists import name_list, read_names

    return name_list(read_names(NAMES).names, "the miniature's names")


# FOLDED: Small models with random weights that every tool takes for Stable Diffusion: for tests, benchmarks and
# FOLDED: the demo.
