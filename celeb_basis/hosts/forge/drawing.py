"""Pictures drawn by Forge's own processing, as previews are: nothing saved, nothing remembered, no scripts run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

from celeb_basis.hosts.webui.randomness import preserved_random_state
from celeb_basis.hosts.webui.shim import host_module, replaced, replaced_options

if TYPE_CHECKING:
    from PIL import Image

    from celeb_basis.hosts.base import GenerationRequest

_PROGRESS = ("job_no", "job_count", "sampling_step", "sampling_steps", "textinfo", "current_latent")


def draw_one(
    request: GenerationRequest, prompts: tuple[str, str], seed: int, size: tuple[int, int]
) -> Image.Image | None:
    """One picture by DDIM, or ``None`` if the user interrupted Forge.

    Parameters: ``prompts`` are the positive and the negative one, with words already in place; ``size`` is in pixels.
    """
    processing = host_module("processing")
    p = processing.StableDiffusionProcessingTxt2Img(
        prompt=prompts[0],
        negative_prompt=prompts[1],
        seed=seed,
        subseed=0,
        sampler_name="DDIM",
        scheduler="Automatic",
        steps=request.steps,
        cfg_scale=request.guidance,
        width=size[0],
        height=size[1],
        batch_size=1,
        n_iter=1,
        do_not_save_samples=True,
        do_not_save_grid=True,
        do_not_reload_embeddings=True,
        restore_faces=False,
        tiling=False,
    )
    # Forge remembers conditionings by prompt for all generations, and would draw a word's old vectors.
    p.cached_c, p.cached_uc = [None, None, None], [None, None, None]
    with closing(p), _as_it_was():
        images = processing.process_images(p).images
    return images[0].convert("RGB") if images else None


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Generation neither switches the checkpoint, nor leaves traces in Forge's state.

    Forge loads what is chosen at the top of its page before it draws, which may be another checkpoint meanwhile; told that
    this is the loaded one, it stays, and finds out at the next picture of the user's own.
    """
    shared, models, processing = host_module("shared"), host_module("sd_models"), host_module("processing")
    progress = {name: getattr(shared.state, name) for name in _PROGRESS}
    with ExitStack() as stack:
        stack.enter_context(preserved_random_state())
        stack.enter_context(replaced_options(live_previews_enable=False))
        chosen = str(models.model_data.forge_loading_parameters)
        stack.enter_context(replaced(models.model_data, forge_hash=chosen))
        stack.enter_context(replaced(processing, need_global_unload=False))
        # else the "restore last prompt" button would bring back a preview's
        stack.enter_context(replaced(shared.cmd_opts, no_prompt_history=True))
        stack.enter_context(replaced(shared.state, **progress))
        yield
