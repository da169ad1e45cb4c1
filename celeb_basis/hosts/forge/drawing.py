"""Pictures drawn by Forge's own processing, as previews are: nothing saved, nothing remembered, no scripts run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celeb_basis.hosts.webui.drawing import drawn, plain_processing
from celeb_basis.hosts.webui.shim import host_module, replaced

if TYPE_CHECKING:
    from PIL import Image

    from celeb_basis.hosts.base import GenerationRequest


def draw_one(
    request: GenerationRequest, prompts: tuple[str, str], seed: int, size: tuple[int, int]
) -> Image.Image | None:
    """One picture by DDIM, or ``None`` if the user interrupted Forge.

    Parameters: ``prompts`` are the positive and the negative one, with words already in place; ``size`` is in pixels.
    """
    processing, models = host_module("processing"), host_module("sd_models")
    p = plain_processing(request, prompts, seed, size)
    # Forge remembers conditionings by prompt for all generations, and would draw a word's old vectors.
    p.cached_c, p.cached_uc = [None, None, None], [None, None, None]
    # Forge loads what is chosen at the top of its page before it draws, which may be another checkpoint meanwhile; told
    # that this is the loaded one, it stays, and finds out at the next picture of the user's own.
    chosen = str(models.model_data.forge_loading_parameters)
    stays = replaced(models.model_data, forge_hash=chosen), replaced(processing, need_global_unload=False)
    return drawn(p, *stays)
