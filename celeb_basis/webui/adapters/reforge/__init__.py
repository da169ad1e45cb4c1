"""Stable Diffusion WebUI reForge."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celeb_basis.webui.adapters.base import Tokens
    from celeb_basis.webui.program import Program
    from celeb_basis.webui.tokens.registry import Registry


class ReForge:
    """reForge keeps the WebUI's page, queue, prompts and text encoders, and has a denoiser of its own."""

    name = "reForge"

    def program(self) -> Program:
        from celeb_basis.webui.adapters.reforge.program import ReForgeProgram

        return ReForgeProgram()

    def install_tokens(self, registry: Registry) -> Tokens:
        from celeb_basis.webui.adapters.reforge.tokens import ReForgeTokens
        from celeb_basis.webui.tokens.host import install

        return install(registry, ReForgeTokens)

    def installed_tokens(self) -> Tokens | None:
        from celeb_basis.webui.adapters.reforge.tokens import ReForgeTokens
        from celeb_basis.webui.tokens.host import installed

        return installed(ReForgeTokens)


if TYPE_CHECKING:
    from celeb_basis.webui.adapters.base import Adapter

    _FITS: type[Adapter] = ReForge  # the type checker's proof that the interface is met
