"""reForge around the model: as the WebUI's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from celeb_basis.webui.program import WebUIProgram

if TYPE_CHECKING:
    from celeb_basis.hosts.base import Host
    from celeb_basis.webui.tokens.fitting import Checkpoint


class ReForgeProgram(WebUIProgram):
    """Stable Diffusion WebUI reForge."""

    def host(self) -> Host:
        """The loaded checkpoint behind the core's interface."""
        from celeb_basis.hosts.reforge import ReForgeHost

        return ReForgeHost()

    def loaded_checkpoint(self) -> Callable[[], Checkpoint | None]:
        """What tells the checkpoint that is loaded."""
        from celeb_basis.webui.adapters.reforge.tokens import LoadedInReForge

        return LoadedInReForge()
