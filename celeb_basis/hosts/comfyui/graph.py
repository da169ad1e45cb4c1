"""Which checkpoint a node's input comes from, read off the workflow: ComfyUI's models do not say what file they are from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celeb_basis.hosts.comfyui.modules import comfy_module

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
    place = _linked(nodes.get(str(node)), name)
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
        place = _linked(found, kind)
    return UNKNOWN


def _linked(node: Any, name: str) -> str | None:
    """The id of the node that an input is connected to."""
    link = node.get("inputs", {}).get(name) if isinstance(node, Mapping) else None
    return str(link[0]) if isinstance(link, (list, tuple)) and len(link) == 2 else None


def _source(name: str, folder: str, changes: tuple[str, ...]) -> Source:
    path = comfy_module("folder_paths").get_full_path(folder, name)
    whole = path is not None and folder == "checkpoints"
    stem = Path(name.replace("\\", "/")).stem
    return Source(stem, Path(path) if whole and path is not None else None, changes)
