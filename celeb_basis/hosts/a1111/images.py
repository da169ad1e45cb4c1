"""Pictures into latents, through the VAE that the user chose in the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from celeb_basis.diffusion_model import LatentDistribution, check_images
from celeb_basis.hosts.a1111.family import means_and_stds
from celeb_basis.hosts.a1111.model import loaded_model
from celeb_basis.hosts.a1111.modules import host_module, replaced, replaced_options
from celeb_basis.hosts.torch_utils import frozen, preserved_random_state, upcast, without_autocast

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from celeb_basis.diffusion_model import GenerationRequest


def encode_images(model: Any, pictures: torch.Tensor) -> LatentDistribution:
    """Mean and standard deviation of the latents of ``(N, 3, H, W)`` pictures in [-1, 1], times the scaling factor.

    Raises: :class:`HostError` for no pictures or sides that the VAE cannot halve.
    """
    import torch

    check_images(pictures, vae_scale_factor_of(model))
    vae = bring_vae(model)
    factor = float(model.scale_factor)
    with torch.no_grad(), frozen([vae]), without_autocast(host_module("devices").device):
        means, stds = means_and_stds(pictures, partial(_encoded, vae), partial(_encoded_in_float32, vae))
    return LatentDistribution(means * factor, stds * factor)


def vae_scale_factor_of(model: Any) -> int:
    """Side in pixels of what one place of a latent stands for."""
    return int(2 ** (model.first_stage_model.encoder.num_resolutions - 1))


def bring_vae(model: Any) -> Any:
    """The VAE on the device. Under ``--medvram`` it takes the place of what is there, as in the host."""
    lowvram, devices = host_module("lowvram"), host_module("devices")
    vae = model.first_stage_model
    if getattr(model, "lowvram", False) and lowvram.module_in_gpu is not vae:
        lowvram.send_everything_to_cpu()
        lowvram.module_in_gpu = vae
    vae.to(devices.device)
    return vae


def bring_vae_for_drawing(model: Any) -> None:
    """The VAE to the device, unless ``--medvram`` does that itself: otherwise the host takes for granted that it is there."""
    if not getattr(model, "lowvram", False):
        bring_vae(model)


def send_vae_away(model: Any) -> None:
    """The VAE to the CPU, where that frees memory on the device."""
    lowvram, devices = host_module("lowvram"), host_module("devices")
    if devices.device.type == "cpu":
        return
    if lowvram.module_in_gpu is model.first_stage_model:
        lowvram.module_in_gpu = None
    model.first_stage_model.to(devices.cpu)
    devices.torch_gc()


def _encoded(vae: Any, picture: torch.Tensor) -> torch.Tensor:
    """``encode`` of SDXL's VAE would draw a sample; here both kinds are asked for the distribution itself."""
    weight = vae.quant_conv.weight
    output: torch.Tensor = vae.quant_conv(vae.encoder(picture.to(weight.device, weight.dtype)))
    return output


def _encoded_in_float32(vae: Any, picture: torch.Tensor) -> torch.Tensor:
    import torch

    with upcast([vae], torch.float32):
        return _encoded(vae, picture)


# FOLDED: Pictures drawn by the host's own processing, as previews are: nothing saved, nothing remembered, no
# FOLDED: scripts run.

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
    8 bits are upcast, and it has been told so.
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
