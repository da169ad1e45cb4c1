"""Writes the people in a picture into its generation parameters, and checks pasted parameters."""

from __future__ import annotations

from typing import Any

from modules import scripts

from celeb_basis.webui import infotext

_infotext = infotext.register()


class CelebBasisInfotext(scripts.Script):
    """The host's hook on every picture; the work is done by :mod:`celeb_basis.webui.infotext`."""

    def title(self) -> str:
        """The name that the host shows."""
        return "Celeb Basis infotext"

    def show(self, is_img2img: bool) -> Any:  # noqa: ARG002 the host's signature
        """Always active, with no interface of its own."""
        return scripts.AlwaysVisible

    def process_batch(self, p: Any, *args: Any, batch_number: int = 0, **kwargs: Any) -> None:  # noqa: ARG002
        """Record who is named in the prompts of a batch."""
        _infotext.note(p, batch_number)
