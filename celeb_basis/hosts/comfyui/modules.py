"""Access to ComfyUI's own modules, which exist only inside a running ComfyUI, and to the workflow that it runs.

No other module of the package imports them.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
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
    "comfy.ops",
    "comfy.sample",
    "comfy.sd1_clip",
    "comfy.sdxl_clip",
    "comfy.utils",
    "comfyui_version",
    "folder_paths",
    "server",
]
"""ComfyUI's modules that this package uses. It touches nothing else of ComfyUI."""

TRIED = "0.3.64 to 0.25.0"
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


def evictable(device: Any, kept: Sequence[Any]) -> int:
    """Bytes on ``device`` of models that ComfyUI would unload for others.

    Args:
        device: The device.
        kept: The patchers of the models that are needed themselves.
    """
    loaded = [one for one in memory_management().current_loaded_models if one.model is not None]
    others = [one for one in loaded if one.device == device and not any(one.model.is_clone(other) for other in kept)]
    return sum(int(one.model_loaded_memory()) for one in others)


@contextmanager
def no_model_moves() -> Iterator[None]:
    """Keep everything where it is inside the context; ComfyUI moves a model to the device whenever it is about to use it."""
    with replaced(memory_management(), load_model_gpu=lambda *_, **__: None, load_models_gpu=lambda *_, **__: None):
        yield


@contextmanager
def no_interruption_by_layers() -> Iterator[None]:
    """Let the layers of ComfyUI compute to the end of a step: since 0.3.65 each of them ends the node on *Cancel*.

    What runs inside the context has to look for the user's wish itself.
    """
    layers = comfy_module("comfy.ops")
    if not hasattr(layers, "run_every_op"):
        yield
        return
    with replaced(layers, run_every_op=lambda: None):
        yield


# Which checkpoint a model comes from is read off the workflow: ComfyUI's models do not say what file they are from.

_LOADERS = (("ckpt_name", "checkpoints"), ("unet_name", "diffusion_models"), ("model_path", "diffusers"))
"""Inputs by which loaders name a file, with ComfyUI's name for the folder that it is in."""

_MOST_NODES = 1000


@dataclass(frozen=True)
class Source:
    """Where a model comes from."""

    name: str
    """The file's name without its suffix, for people to read; empty if it was not found."""
    file: Path | None = None
    """The checkpoint's file; ``None`` if it was not found, or if the model is not only from there."""
    changes: tuple[str, ...] = ()
    """Settings of the nodes between the loader and here, which may have changed the model."""


UNKNOWN = Source("")


def source_of(prompt: Mapping[str, Any] | None, node: str | None, name: str) -> Source:
    """The checkpoint that an input of a node is loaded from.

    Args:
        prompt: The workflow in ComfyUI's API format, its hidden input ``PROMPT``.
        node: The node's id, its hidden input ``UNIQUE_ID``.
        name: The input, such as ``"model"``.
    """
    nodes = prompt or {}
    place = linked(nodes.get(str(node)), name)
    kind = "clip" if name == "clip" else "model"
    changes: list[str] = []
    for _ in range(_MOST_NODES):
        if place is None or (found := nodes.get(place)) is None:
            return UNKNOWN
        inputs = found.get("inputs", {})
        for key, folder in _LOADERS:
            if isinstance(inputs.get(key), str):
                return _source(inputs[key], folder, tuple(changes))
        settings = {key: value for key, value in inputs.items() if not isinstance(value, (list, tuple))}
        changes.append(json.dumps([found.get("class_type"), settings], sort_keys=True))
        place = linked(found, kind)
    return UNKNOWN


def upstream(prompt: Mapping[str, Any], node: str) -> set[str]:
    """Ids of all nodes that a node takes something from, directly or not, and its own."""
    found, waiting = set(), [str(node)]
    while waiting:
        one = waiting.pop()
        if one not in found and isinstance(prompt.get(one), Mapping):
            found.add(one)
            waiting += [
                link for name in prompt[one].get("inputs", {}) if (link := linked(prompt[one], name)) is not None
            ]
    return found


def ends_of(prompt: Mapping[str, Any]) -> list[str]:
    """Ids of the nodes that no other one takes something from: those that save and show images are among them."""
    used = {
        linked(node, name) for node in prompt.values() if isinstance(node, Mapping) for name in node.get("inputs", {})
    }
    return [node for node in prompt if node not in used]


def linked(node: Any, name: str) -> str | None:
    """The id of the node that an input is connected to."""
    link = node.get("inputs", {}).get(name) if isinstance(node, Mapping) else None
    return str(link[0]) if isinstance(link, (list, tuple)) and len(link) == 2 else None


def _source(name: str, folder: str, changes: tuple[str, ...]) -> Source:
    path = comfy_module("folder_paths").get_full_path(folder, name)
    whole = path is not None and folder == "checkpoints"
    stem = Path(name.replace("\\", "/")).stem
    return Source(stem, Path(path) if whole and path is not None else None, changes)
