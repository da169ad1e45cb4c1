"""``<name>`` in Forge's prompts: its text engines tokenize prompts as the WebUI's text encoders do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from celeb_basis.diffusion_model import ModelInfo
from celeb_basis.hosts.a1111.encoder_views import EngineView, TextEncoderView
from celeb_basis.hosts.a1111.family import LoadedCheckpoint
from celeb_basis.hosts.a1111.modules import embedding_names, host_module
from celeb_basis.hosts.a1111.tokens import A1111Tokens, CheckpointTracker, Place
from celeb_basis.hosts.forge.model import ForgeCheckpoint, embedding_databases
from celeb_basis.hosts.forge.modules import VERSIONS, forge_module, text_engine_class
from celeb_basis.identities.identity import Identity
from celeb_basis.prompts.registry import Registry

_NOT_YET = "no checkpoint is loaded yet: Forge loads it with the first picture."


class ForgeTokens(A1111Tokens):
    """The identities of one registry in Forge's prompts.

    Args:
        registry: Finds the identities.
    """

    supported = VERSIONS

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry)
        registry.without_checkpoint = _NOT_YET

    @classmethod
    def tokenizing_class(cls) -> Any:
        """The class of CLIP's text engines."""
        return text_engine_class()

    def checkpoint_tracker(self) -> CheckpointTracker:
        """The one for Forge."""
        return ForgeTracker()

    def places(self) -> list[Place]:
        """Forge has no old emphasis implementation."""
        return [(self.tokenizing_class(), "tokenize_line", self._tokenize_line), *self.prompt_places()]

    def view_of(self, encoder: Any, find: Callable[[str], Any]) -> TextEncoderView:
        """A text engine with its own embeddings."""
        return EngineView(encoder, find)

    def make_embedding(self, identity: Identity, path: Path) -> Any:
        """Forge's own kind of embedding."""
        vectors = dict(zip(identity.encoders, identity.token_vectors(), strict=True))
        # SDXL's engines look for theirs by name, the one engine of the others takes what there is.
        vec = vectors if len(vectors) > 1 else next(iter(vectors.values()))
        embedding = forge_module("backend.text_processing.textual_inversion").Embedding(vec, f"<{identity.name}>")
        embedding.vectors = identity.positions
        embedding.shape = sum(array.shape[-1] for array in identity.vectors)
        embedding.filename = str(path)
        return embedding

    def has_emphasis(self) -> bool:
        """Whether Forge reads ``(word:0.8)`` as an emphasis."""
        return bool(host_module("shared").opts.emphasis != "None")

    def embedding_names(self) -> frozenset[str]:
        """Names of Forge's own embeddings, casefolded."""
        return embedding_names(*embedding_databases())

    def comments(self) -> list[str]:
        """The loaded model's."""
        checkpoint = ForgeCheckpoint.current_or_none()
        comments: list[str] = [] if checkpoint is None else getattr(checkpoint.model, "comments", [])
        return comments


class ForgeTracker(CheckpointTracker):
    """As in the WebUI; models of other kinds (Stable Diffusion 3, Flux) have a family that no identity is of."""

    checkpoint_type = ForgeCheckpoint

    def describe(self, checkpoint: LoadedCheckpoint, sha256: str) -> ModelInfo:
        """By the class of Forge's model where it is not a Stable Diffusion."""
        model = checkpoint.model
        if any(getattr(model, flag, False) for flag in ("is_sd1", "is_sd2", "is_sdxl")):
            return ModelInfo(checkpoint.name, checkpoint.family, sha256, checkpoint.resolution)
        family = "sd3" if getattr(model, "is_sd3", False) else type(model).__name__.lower()
        return ModelInfo(checkpoint.name, family, sha256, 1024)

    def encoder_names(self, checkpoint: LoadedCheckpoint, info: ModelInfo) -> list[str]:
        """Those of CLIP's text engines, if it is a Stable Diffusion."""
        return checkpoint.embedding_keys if info.family in ("sd1", "sd2", "sdxl") else []
