"""Paints the faces of finished images again with people of the library, where the extension ADetailer is installed."""

from __future__ import annotations

from typing import Any

from modules import scripts

from celeb_basis.webui import adetailer


class CelebBasisFaces(scripts.Script):
    """The host's hook before every job, and a box on its page; the work is done by :mod:`celeb_basis.webui.adetailer`."""

    def title(self) -> str:
        """The name that the host's API knows it by."""
        return "Celeb Basis faces"

    def show(self, is_img2img: bool) -> Any:  # noqa: ARG002 the host's signature
        """Active where ADetailer is; asked when all scripts are loaded."""
        return scripts.AlwaysVisible if adetailer.is_installed() else False

    def ui(self, is_img2img: bool) -> list[Any]:  # noqa: ARG002
        """The people to paint faces with."""
        return [adetailer.create_choice(self.elem_id)]

    def before_process(self, p: Any, *args: Any) -> None:
        """Fill ADetailer's arguments, which it reads later in the job."""
        adetailer.paint_faces_again(p, args[0] if args else None)
