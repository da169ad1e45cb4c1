"""Forge and Forge Neo, the programs around the model: the WebUI's page, queue and prompts, with models of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from celeb_basis.hosts.a1111.app import A1111App, Adapter, HostApp
from celeb_basis.hosts.a1111.modules import embedding_names

if TYPE_CHECKING:
    from celeb_basis.diffusion_model import DiffusionModel
    from celeb_basis.faces.guidance import GuidedBatch
    from celeb_basis.hosts.a1111.tokens import CheckpointTracker, Tokens
    from celeb_basis.prompts.places import Places
    from celeb_basis.prompts.registry import Registry


class ForgeApp(A1111App):
    """Stable Diffusion WebUI Forge, which loads a checkpoint no earlier than it generates."""

    def loaded_model(self) -> DiffusionModel:
        """The loaded checkpoint behind the core's interface."""
        from celeb_basis.hosts.forge.host import ForgeHost

        return ForgeHost()

    def model_key(self) -> object | None:
        """The identity of the loaded model object, which is not kept."""
        from celeb_basis.hosts.forge.model import ForgeCheckpoint

        checkpoint = ForgeCheckpoint.current_or_none()
        return None if checkpoint is None else (id(checkpoint.model), checkpoint.model.sd_model_hash)

    @contextlib.contextmanager
    def write_lock(self, task: str | None) -> Iterator[None]:
        """Forge's queue lock, with the checkpoint loaded that is selected at the top of its page."""
        from celeb_basis.hosts.forge.model import load_selected_checkpoint

        with super().write_lock(task):
            load_selected_checkpoint()
            yield

    def embedding_names(self) -> frozenset[str]:
        """What the loaded model's databases hold, and the page's, which is there before any model is."""
        from celeb_basis.hosts.forge.model import embedding_databases

        return embedding_names(*embedding_databases())

    def checkpoint_tracker(self) -> CheckpointTracker:
        """The one for Forge."""
        from celeb_basis.hosts.forge.tokens import ForgeTracker

        return ForgeTracker()


class Forge(Adapter):
    """Stable Diffusion WebUI Forge."""

    name = "Forge"
    has_places = has_face_guidance = True

    def program(self) -> HostApp:
        """The program Forge, without the model."""
        return ForgeApp()

    def install_tokens(self, registry: Registry) -> Tokens:
        """Have Forge's text engines read ``<name>``."""
        from celeb_basis.hosts.a1111.tokens import install
        from celeb_basis.hosts.forge.tokens import ForgeTokens

        return install(registry, ForgeTokens)

    def installed_tokens(self) -> Tokens | None:
        """Those of Forge's text engines."""
        from celeb_basis.hosts.a1111.tokens import installed
        from celeb_basis.hosts.forge.tokens import ForgeTokens

        return installed(ForgeTokens)

    def use_places(self, processing: Any, places: Places | None) -> None:
        """By Forge's composed prompts."""
        from celeb_basis.hosts.a1111.sampler_hooks import set_places
        from celeb_basis.hosts.forge.sampler_hooks import ForgeSamplerHooks

        set_places(processing, places, ForgeSamplerHooks)

    def use_guidance(self, processing: Any, guidance: GuidedBatch | None) -> None:
        """Between Forge's denoiser and its samplers."""
        from celeb_basis.hosts.a1111.sampler_hooks import set_guidance
        from celeb_basis.hosts.forge.sampler_hooks import ForgeSamplerHooks

        set_guidance(processing, guidance, ForgeSamplerHooks)


class ForgeNeo(Forge):
    """Forge Neo, which goes on where Forge stopped: without SD2, and with other names for some of Forge's classes."""

    name = "Forge Neo"
