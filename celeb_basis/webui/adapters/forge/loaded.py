"""Forge's loaded checkpoint as tokens see it. Asking never makes Forge load one."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

from celeb_basis.errors import HostError
from celeb_basis.hosts.base import ModelInfo, TextEncoder
from celeb_basis.hosts.forge.model import family_of, loaded_model_or_none, resolution_of, text_engines
from celeb_basis.hosts.forge.text import ForgeTextEncoder
from celeb_basis.hosts.webui.model import checkpoint_name
from celeb_basis.webui.tokens.loaded import LoadedCheckpoint


class LoadedInForge(LoadedCheckpoint):
    """As in the WebUI; models of other kinds (Stable Diffusion 3, Flux) have a family that no person is of."""

    def model(self) -> Any | None:
        return loaded_model_or_none()

    def info(self, model: Any, sha256: str) -> ModelInfo:
        if not (model.is_sd1 or model.is_sd2 or model.is_sdxl):
            family = "sd3" if model.is_sd3 else type(model).__name__.lower()
            return ModelInfo(checkpoint_name(model), family, sha256, 1024)
        return ModelInfo(checkpoint_name(model), family_of(model), sha256, resolution_of(model))

    def encoders(self, reference: weakref.ref[Any], info: ModelInfo) -> Sequence[TextEncoder]:
        model = reference()
        if model is None:
            raise HostError(f"{info.name} is no longer loaded: try again.")
        engines = text_engines(model) if info.family in ("sd1", "sd2", "sdxl") else []
        if not engines:
            raise HostError(f"{info.name} has no text encoder that people fit: choose a Stable Diffusion 1, 2 or XL.")
        # Forge's keys are the names that exported files use.
        return [ForgeTextEncoder(one.embedding_key, _engine(reference, i)) for i, one in enumerate(engines)]


def _engine(reference: weakref.ref[Any], index: int) -> Callable[[], Any]:
    return lambda: text_engines(reference())[index]
