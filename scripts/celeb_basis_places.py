"""Places of people in an image: the control on the host's pages, and the hook before each batch."""

from __future__ import annotations

from typing import Any

from modules import scripts

from celeb_basis.webui import placement

_placement = placement.Placement()


class CelebBasisPlaces(scripts.Script):
    """The host's hook; the work is done by :mod:`celeb_basis.webui.placement`."""

    def title(self) -> str:
        """The name that the host shows, and the key in the API's ``alwayson_scripts``."""
        return "Celeb Basis places"

    def show(self, is_img2img: bool) -> Any:  # noqa: ARG002 the host's signature
        """Always there, in a program that can draw with places; without any, nothing is done."""
        return scripts.AlwaysVisible if placement.supported() else False

    def ui(self, is_img2img: bool) -> Any:
        """The control."""
        components, self.infotext_fields = placement.controls("img2img" if is_img2img else "txt2img")
        self.paste_field_names = placement.pasted_names()
        return components

    def process_batch(self, p: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Have a batch drawn with the places."""
        _placement.before_batch(p, *args[:2])
