"""AUTOMATIC1111's WebUI."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celeb_basis.webui.adapters.base import Tokens
    from celeb_basis.webui.program import Program
    from celeb_basis.webui.tokens.registry import Registry


class Automatic1111:
    """The program that the extension is made for; a fork that is not known is treated like it."""

    name = "AUTOMATIC1111's WebUI"

    def program(self) -> Program:
        from celeb_basis.webui.program import WebUIProgram

        return WebUIProgram()

    def install_tokens(self, registry: Registry) -> Tokens:
        from celeb_basis.webui.tokens.host import install

        return install(registry)

    def installed_tokens(self) -> Tokens | None:
        from celeb_basis.webui.tokens.host import installed

        return installed()


if TYPE_CHECKING:
    from celeb_basis.webui.adapters.base import Adapter

    _FITS: type[Adapter] = Automatic1111  # the type checker's proof that the interface is met
