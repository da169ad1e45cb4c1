"""``<name>`` in reForge's prompts, which are the WebUI's; only what checkpoint is loaded is told otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celeb_basis.hosts.base import ModelInfo
from celeb_basis.hosts.ordinary import ordinary_tensors
from celeb_basis.hosts.reforge.model import family_of, resolution_of
from celeb_basis.hosts.webui.model import checkpoint_name
from celeb_basis.webui.tokens.fitting import Checkpoint
from celeb_basis.webui.tokens.host import HostTokens
from celeb_basis.webui.tokens.loaded import LoadedCheckpoint
from celeb_basis.webui.tokens.registry import Unavailable, Word


class LoadedInReForge(LoadedCheckpoint):
    """As in the WebUI; models of other kinds have a family that no person is of."""

    def info(self, model: Any, sha256: str) -> ModelInfo:
        if getattr(model, "is_sd3", False) or not hasattr(model, "get_learned_conditioning"):
            return ModelInfo(checkpoint_name(model), "sd3", sha256, 1024)
        return ModelInfo(checkpoint_name(model), family_of(model), sha256, resolution_of(model))


class ReForgeTokens(HostTokens):
    """The people of one registry as words of reForge's prompts."""

    supported = "reForge's branch main of 2025 or later"

    # reForge draws in torch's inference mode.

    def mentioned(self, *prompts: str) -> tuple[Word | Unavailable, ...]:
        with ordinary_tensors():
            return super().mentioned(*prompts)

    def view_of(self, encoder: Any, find: Callable[[str], Any]) -> Any:
        def find_ordinary(text: str) -> Any:
            with ordinary_tensors():
                return find(text)

        return super().view_of(encoder, find_ordinary)

    def loaded_checkpoint(self) -> Callable[[], Checkpoint | None]:
        return LoadedInReForge()
