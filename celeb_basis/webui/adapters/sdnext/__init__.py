"""SD.Next."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celeb_basis.webui.adapters.base import Tokens
    from celeb_basis.webui.program import Program
    from celeb_basis.webui.tokens.registry import Registry


class SDNext:
    """SD.Next keeps the WebUI's way of loading extensions; its models are diffusers' pipelines."""

    name = "SD.Next"

    def program(self) -> Program:
        from celeb_basis.webui.adapters.sdnext.program import SDNextProgram

        _write_into_its_log()
        return SDNextProgram()

    def install_tokens(self, registry: Registry) -> Tokens:
        from celeb_basis.webui.adapters.sdnext.tokens import install

        return install(registry)

    def installed_tokens(self) -> Tokens | None:
        from celeb_basis.webui.adapters.sdnext.tokens import installed

        return installed()


def _write_into_its_log() -> None:
    """SD.Next shows and keeps what its own logger is told, and lets nobody else's words through."""
    ours, its = logging.getLogger("celeb_basis"), logging.getLogger("sd")
    if its.handlers:
        ours.handlers, ours.propagate = its.handlers, False


if TYPE_CHECKING:
    from celeb_basis.webui.adapters.base import Adapter

    _FITS: type[Adapter] = SDNext  # the type checker's proof that the interface is met
