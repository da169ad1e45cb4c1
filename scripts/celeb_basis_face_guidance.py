"""Face guidance while an image is generated: the slider on the host's pages, and the hooks around each job."""

from __future__ import annotations

from typing import Any

from modules import scripts

from celeb_basis.webui import guided_faces

_guided = guided_faces.GuidedFaces()


class CelebBasisFaceGuidance(scripts.Script):
    """The host's hooks; the work is done by :mod:`celeb_basis.webui.guided_faces`."""

    def title(self) -> str:
        """The name that the host shows, and the key in the API's ``alwayson_scripts``."""
        return "Celeb Basis face guidance"

    def show(self, is_img2img: bool) -> Any:  # noqa: ARG002 the host's signature
        """Always there, in a program whose samplers can be reached; at 0, nothing is done."""
        return scripts.AlwaysVisible if guided_faces.supported() else False

    def ui(self, is_img2img: bool) -> Any:
        """The control."""
        components, self.infotext_fields = guided_faces.controls("img2img" if is_img2img else "txt2img")
        self.paste_field_names = guided_faces.pasted_names()
        return components

    def process_batch(self, p: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Have a batch drawn with guidance."""
        _guided.before_batch(p, *args[:1])

    def postprocess(self, p: Any, processed: Any, *args: Any) -> None:  # noqa: ARG002
        """Take what was needed off the graphics card."""
        _guided.after_job(p)
