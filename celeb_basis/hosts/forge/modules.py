"""Access to the modules that only Forge and Forge Neo have: their package ``backend`` and some of ``modules_forge``.

Their ``modules.*`` are reached as in the WebUI that they come from. No other module of this package imports Forge's. What
has another name in Forge Neo is looked up here under either.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111.modules import replaced

ForgeModule = Literal[
    "backend.args",
    "backend.attention",
    "backend.memory_management",
    "backend.modules.k_prediction",
    "backend.nn.unet",
    "backend.sampling.sampling_function",
    "backend.text_processing.classic_engine",
    "backend.text_processing.sd_engine",
    "backend.text_processing.textual_inversion",
    "modules_forge.main_entry",
]
"""Forge's own modules that this package uses. It touches nothing else of Forge."""

VERSIONS = "a Forge of August 2024 or later, or Forge Neo of 2025 or 2026"
"""The programs that have what is used here."""

_TEXT_ENGINES: tuple[tuple[ForgeModule, str], ...] = (
    ("backend.text_processing.sd_engine", "ClipEngine"),
    ("backend.text_processing.classic_engine", "ClassicTextProcessingEngine"),
)
"""Where the class of CLIP's text engines is: in Forge Neo since 2026, and before that and in Forge."""


def forge_module(name: ForgeModule) -> Any:
    """Import a module of Forge's own.

    Raises:
        HostError: Outside of Forge, or in one that does not have it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise HostError(
            f"The module {error.name} of Forge was not found: use this from inside {VERSIONS}, as its extension."
        ) from error


def text_engine_module() -> Any:
    """The module of CLIP's text engines.

    Raises:
        HostError: In a version that has none of the known ones.
    """
    return _text_engine()[0]


def text_engine_class() -> Any:
    """The class of CLIP's text engines, by whichever of its names this version has.

    Raises:
        HostError: In a version that has none of the known ones.
    """
    return _text_engine()[1]


def _text_engine() -> tuple[Any, Any]:
    for place, name in _TEXT_ENGINES:
        try:
            module = importlib.import_module(place)
        except ModuleNotFoundError as error:
            if error.name is None or not place.startswith(error.name):
                raise HostError(
                    f"The module {place} of Forge cannot be loaded, since {error.name} was not found: repair Forge's "
                    "own installation."
                ) from error
            continue
        if (kind := getattr(module, name, None)) is not None:
            return module, kind
    looked_for = " nor ".join(f"{name} in {place}" for place, name in _TEXT_ENGINES)
    raise HostError(
        f"This WebUI has neither {looked_for}, by which prompts are read: use {VERSIONS}, or look for a newer version of "
        "this extension."
    )


@contextmanager
def silent_text_engines() -> Iterator[None]:
    """Keep Forge from printing a line for every embedding in a prompt, and from writing it into the next image's parameters.

    Forge keeps what goes into the parameters in the module of its text engines, and Forge Neo since 2026 in its own
    arguments.
    """
    with ExitStack() as stack:
        stack.enter_context(replaced(text_engine_module(), print=lambda *_: None, last_extra_generation_params={}))
        arguments = forge_module("backend.args").dynamic_args
        if hasattr(arguments, "last_extra_generation_params"):
            stack.enter_context(replaced(arguments, last_extra_generation_params={}))
        yield


def embeddings_page() -> Any | None:
    """The module of Forge's page of embeddings, which reads their folder by itself; ``None`` before it is loaded."""
    return sys.modules.get("modules.ui_extra_networks_textual_inversion")


@contextmanager
def no_model_moves() -> Iterator[None]:
    """Keep everything where it is inside the context; Forge moves a model to the device whenever it is about to use it."""
    memory = forge_module("backend.memory_management")
    with replaced(memory, load_model_gpu=lambda *_: None, load_models_gpu=lambda *_, **__: None):
        yield
