"""reForge, the program around the model: the WebUI's page, queue, prompts and text encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celeb_basis.hosts.a1111.app import A1111App, Adapter, HostApp

if TYPE_CHECKING:
    from celeb_basis.diffusion_model import DiffusionModel
    from celeb_basis.hosts.a1111.tokens import CheckpointTracker, Tokens
    from celeb_basis.prompts.registry import Registry


class ReForgeApp(A1111App):
    """Stable Diffusion WebUI reForge."""

    def loaded_model(self) -> DiffusionModel:
        """The loaded checkpoint behind the core's interface."""
        from celeb_basis.hosts.reforge.host import ReForgeHost

        return ReForgeHost()

    def checkpoint_tracker(self) -> CheckpointTracker:
        """The one for reForge."""
        from celeb_basis.hosts.reforge.tokens import ReForgeTracker

        return ReForgeTracker()


class ReForge(Adapter):
    """Stable Diffusion WebUI reForge."""

    name = "reForge"

    def program(self) -> HostApp:
        """The program reForge, without the model."""
        return ReForgeApp()

    def install_tokens(self, registry: Registry) -> Tokens:
        """Have reForge's text encoders read ``<name>``."""
        from celeb_basis.hosts.a1111.tokens import install
        from celeb_basis.hosts.reforge.tokens import ReForgeTokens

        return install(registry, ReForgeTokens)

    def installed_tokens(self) -> Tokens | None:
        """Those of reForge's text encoders."""
        from celeb_basis.hosts.a1111.tokens import installed
        from celeb_basis.hosts.reforge.tokens import ReForgeTokens

        return installed(ReForgeTokens)
