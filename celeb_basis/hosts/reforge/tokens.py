"""``<name>`` in reForge's prompts, which are the WebUI's; only the loaded checkpoint is recognized in another way."""

from __future__ import annotations

from celeb_basis.diffusion_model import ModelInfo
from celeb_basis.hosts.a1111.family import LoadedCheckpoint
from celeb_basis.hosts.a1111.tokens import A1111Tokens, CheckpointTracker
from celeb_basis.hosts.reforge.model import ReForgeCheckpoint


class ReForgeTokens(A1111Tokens):
    """The identities of one registry in reForge's prompts."""

    supported = "reForge's branch main of 2025 or later"

    def has_comments(self) -> bool:
        """Always: its setting only says whether they are saved."""
        return True

    def checkpoint_tracker(self) -> CheckpointTracker:
        """The one for reForge."""
        return ReForgeTracker()


class ReForgeTracker(CheckpointTracker):
    """As in the WebUI; models of other kinds have a family that no identity is of."""

    checkpoint_type = ReForgeCheckpoint

    def describe(self, checkpoint: LoadedCheckpoint, sha256: str) -> ModelInfo:
        """Whatever cannot encode prompts counts as Stable Diffusion 3."""
        if getattr(checkpoint.model, "is_sd3", False) or not hasattr(checkpoint.model, "get_learned_conditioning"):
            return ModelInfo(checkpoint.name, "sd3", sha256, 1024)
        return ModelInfo(checkpoint.name, checkpoint.family, sha256, checkpoint.resolution)
