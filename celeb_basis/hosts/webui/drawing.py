"""Pictures drawn by the host's own processing, as previews are: nothing saved, nothing remembered, no scripts run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

from celeb_basis.hosts.webui.model import loaded_model
from celeb_basis.hosts.webui.randomness import preserved_random_state
from celeb_basis.hosts.webui.shim import host_module, replaced, replaced_options

if TYPE_CHECKING:
    from PIL import Image

    from celeb_basis.hosts.base import GenerationRequest

_PROGRESS = ("job_no", "job_count", "sampling_step", "sampling_steps", "textinfo", "current_latent")


def draw_one(
    request: GenerationRequest,
    prompts: tuple[str, str],
    seed: int,
    size: tuple[int, int],
    *,
    scripts: Callable[[], Any] = lambda: None,
) -> Image.Image | None:
    """One picture by DDIM, or ``None`` if the user interrupted the host.

    Parameters: ``prompts`` are the positive and the negative one, with words already in place; ``size`` is in pixels;
    ``scripts`` makes a runner of no scripts, for a host that asks for one.
    """
    p = plain_processing(request, prompts, seed, size)
    p.scripts = scripts()
    # The host remembers conditionings by prompt for all generations, and would draw a word's old vectors.
    p.cached_c, p.cached_uc = [None, None], [None, None]
    # The host loads what its settings name before it draws, which is another checkpoint if the user chose one meanwhile.
    title = loaded_model().sd_checkpoint_info.title
    return drawn(p, replaced_options(sd_model_checkpoint=title), weights_stay())


@contextmanager
def weights_stay() -> Iterator[None]:
    """The host does not load the checkpoint anew to hold it in 8 bits, or no longer.

    It would before it draws, where the setting and what it remembers of the weights differ: while learning, weights of
    8 bits are widened, and it has been told so.
    """
    models, devices = host_module("sd_models"), host_module("devices")
    known = {"check_fp8": lambda _model: devices.fp8} if hasattr(models, "check_fp8") else {}
    with replaced(models, **known):
        yield


def plain_processing(request: GenerationRequest, prompts: tuple[str, str], seed: int, size: tuple[int, int]) -> Any:
    """The host's processing of what :func:`draw_one` is given."""
    return host_module("processing").StableDiffusionProcessingTxt2Img(
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


def drawn(p: Any, *meanwhile: AbstractContextManager[None]) -> Image.Image | None:
    """The one picture of a processing, or ``None``; ``meanwhile`` keeps the host from switching the checkpoint.

    Generation leaves no traces in the host's state.
    """
    shared = host_module("shared")
    progress = {name: getattr(shared.state, name) for name in _PROGRESS}
    with closing(p), ExitStack() as stack:
        stack.enter_context(preserved_random_state())
        stack.enter_context(replaced_options(live_previews_enable=False))
        for context in meanwhile:
            stack.enter_context(context)
        # else the "restore last prompt" button would bring back a preview's
        stack.enter_context(replaced(shared.cmd_opts, no_prompt_history=True))
        stack.enter_context(replaced(shared.state, **progress))
        images = host_module("processing").process_images(p).images
    return images[0].convert("RGB") if images else None
