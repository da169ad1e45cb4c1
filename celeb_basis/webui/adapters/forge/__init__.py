"""Stable Diffusion WebUI Forge."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celeb_basis.webui.adapters.base import Tokens
    from celeb_basis.webui.program import Program
    from celeb_basis.webui.tokens.registry import Registry


class Forge:
    """Forge keeps the WebUI's page, queue and prompt language, and has models and text encoders of its own."""

    name = "Forge"

    def program(self) -> Program:
        from celeb_basis.webui.adapters.forge.program import ForgeProgram

        return ForgeProgram()

    def install_tokens(self, registry: Registry) -> Tokens:
        from celeb_basis.webui.adapters.forge.tokens import ForgeTokens
        from celeb_basis.webui.tokens.host import install

        return install(registry, ForgeTokens)

    def installed_tokens(self) -> Tokens | None:
        from celeb_basis.webui.adapters.forge.tokens import ForgeTokens
        from celeb_basis.webui.tokens.host import installed

        return installed(ForgeTokens)


if TYPE_CHECKING:
    from celeb_basis.webui.adapters.base import Adapter

    _FITS: type[Adapter] = Forge  # the type checker's proof that the interface is met
