"""Access to ComfyUI's own modules, which exist only inside a running ComfyUI.

No other module of the package imports them.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111.modules import replaced

ComfyModule = Literal[
    "comfy.clip_model",
    "comfy.ldm.models.autoencoder",
    "comfy.ldm.modules.attention",
    "comfy.ldm.modules.diffusionmodules.openaimodel",
    "comfy.model_base",
    "comfy.model_management",
    "comfy.model_sampling",
    "comfy.sample",
    "comfy.sd1_clip",
    "comfy.sdxl_clip",
    "comfy.utils",
    "comfyui_version",
    "folder_paths",
    "server",
]
"""ComfyUI's modules that this package uses. It touches nothing else of ComfyUI."""

TRIED = "0.3.64"
"""The version of ComfyUI that this was run in."""


def comfy_module(name: ComfyModule) -> Any:
    """Import a module of the ComfyUI that is running.

    Raises:
        HostError: Outside of ComfyUI, or in one without this module.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise HostError(f"The module {error.name} was not found{_in_this_version()}") from error


def comfy_part(module: ComfyModule, name: str) -> Any:
    """A class or function of ComfyUI's.

    Raises:
        HostError: This ComfyUI does not have it.
    """
    found = getattr(comfy_module(module), name, None)
    if found is None:
        raise HostError(f"The class {module}.{name} was not found{_in_this_version()}")
    return found


def method_of(owner: Any, name: str) -> Any:
    """A method of one of ComfyUI's objects.

    Raises:
        HostError: This ComfyUI's class does not have it.
    """
    found = getattr(owner, name, None)
    if found is None:
        raise HostError(f"{type(owner).__name__}.{name} was not found{_in_this_version()}")
    return found


def _in_this_version() -> str:
    try:
        version = importlib.import_module("comfyui_version").__version__
    except (ImportError, AttributeError):
        version = ""
    here = f" in this ComfyUI ({version})" if version else ": this is not a ComfyUI"
    return f"{here}: Celeb Basis was made for ComfyUI {TRIED}. Update Celeb Basis, or use a ComfyUI near that version."


def memory_management() -> Any:
    """ComfyUI's module that keeps track of which models are on the device."""
    return comfy_module("comfy.model_management")


@contextmanager
def no_model_moves() -> Iterator[None]:
    """Keep everything where it is inside the context; ComfyUI moves a model to the device whenever it is about to use it."""
    with replaced(memory_management(), load_model_gpu=lambda *_, **__: None, load_models_gpu=lambda *_, **__: None):
        yield
