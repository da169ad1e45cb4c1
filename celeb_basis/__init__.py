"""Celeb Basis: a person from one photo, as a word in any Stable Diffusion prompt.

The names below are the public Python API; see ``docs/python.md``. Importing this package imports nothing heavy: torch,
insightface and matplotlib are loaded by the first use of a name.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

__version__ = "1.0.0"

NO_TELEMETRY = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime reports its use to its maker, and stores reports that it could not send
    "NO_ALBUMENTATIONS_UPDATE": "1",  # older releases of insightface import albumentations, which asks for its newest release
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Environment variables that keep our dependencies from contacting anybody. They read them once, when they are imported."""

# A value of the user's own stays, but an empty one means the same as none to these packages.
TELEMETRY_ALREADY_ON = "onnxruntime" in sys.modules and not os.environ.get("ORT_DISABLE_TELEMETRY")
"""Whether onnxruntime was imported before this package, with its telemetry on."""

os.environ.update({name: value for name, value in NO_TELEMETRY.items() if not os.environ.get(name)})

if TYPE_CHECKING:
    from celeb_basis.diffusion_model import DiffusionModel as DiffusionModel
    from celeb_basis.diffusion_model import GenerationRequest as GenerationRequest
    from celeb_basis.errors import CelebBasisError as CelebBasisError
    from celeb_basis.identities.identity import Identity as Identity
    from celeb_basis.identities.invention import InventionSettings as InventionSettings
    from celeb_basis.python_api import invent_people as invent_people
    from celeb_basis.python_api import learn_person as learn_person
    from celeb_basis.python_api import load_model as load_model
    from celeb_basis.python_api import loaded_model as loaded_model
    from celeb_basis.python_api import measure_likeness as measure_likeness
    from celeb_basis.python_api import open_person as open_person
    from celeb_basis.python_api import people_in_prompt as people_in_prompt
    from celeb_basis.python_api import save_person as save_person
    from celeb_basis.python_api import steer_person as steer_person
    from celeb_basis.python_api import token_vectors as token_vectors
    from celeb_basis.settings import TrainingSettings as TrainingSettings

_EXPORTS = {
    **dict.fromkeys(("learn_person", "load_model", "loaded_model", "open_person", "people_in_prompt"), "python_api"),
    **dict.fromkeys(
        ("invent_people", "measure_likeness", "save_person", "steer_person", "token_vectors"), "python_api"
    ),
    **dict.fromkeys(("DiffusionModel", "GenerationRequest"), "diffusion_model"),
    "CelebBasisError": "errors",
    "Identity": "identities.identity",
    "InventionSettings": "identities.invention",
    "TrainingSettings": "settings",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
