"""The checkpoint that reForge has loaded: a denoiser and a VAE of its own beside the WebUI's text encoders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from celeb_basis.diffusion_model import (
    LatentDistribution,
    NoiseSchedule,
    Prediction,
    VaeMemory,
    check_images,
    check_latents,
)
from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111.family import ADVICE, Family
from celeb_basis.hosts.a1111.model import A1111Checkpoint, decoded, decoded_in_float32
from celeb_basis.hosts.a1111.modules import host_module
from celeb_basis.hosts.reforge.modules import reforge_module
from celeb_basis.hosts.torch_utils import (
    decode_each,
    encode_each,
    frozen,
    memory_of_original_vae,
    torch_attention_keeps_scores,
    upcast,
    without_autocast,
)

_NOT_PLAIN = {5: "a depth checkpoint", 8: "an InstructPix2Pix checkpoint"}
_WITH_GRADIENTS = (
    "attention_basic",
    "attention_split",
    "attention_sub_quad",
    "attention_xformers",
    "attention_pytorch",
)
"""Attention functions that gradients pass; Sage's and flash attention's are made for generation alone."""


class ReForgeCheckpoint(A1111Checkpoint):
    """``forge_objects_original``: the checkpoint without the LoRAs and patches of the last prompt."""

    program = "reForge"

    def check(self) -> None:
        """Refuse other architectures, depth, InstructPix2Pix, unCLIP, refiners and other predictions."""
        model, name = self.model, self.name
        if getattr(model, "is_sd3", False) or not hasattr(model, "get_learned_conditioning"):
            raise HostError(f"{name} is not a checkpoint of Stable Diffusion 1, 2 or XL: {ADVICE}.")
        part = self.denoiser
        inputs, latent = part.model_config.unet_config["in_channels"], part.latent_format.latent_channels
        if inputs != latent and not self.is_inpainting:
            kind = _NOT_PLAIN.get(inputs, "a special checkpoint")
            raise HostError(f"{name} is {kind}, which needs more than a prompt: {ADVICE}.")
        if model.is_sdxl and len(self.text_encoders) != 2:
            raise HostError(f"{name} has only one of SDXL's two text encoders, as its refiner does: {ADVICE}.")
        if not model.is_sdxl and self.unet.num_classes is not None:
            raise HostError(f"{name} is an unCLIP checkpoint, which needs an image as well: {ADVICE}.")
        _ = self.prediction

    @property
    def is_inpainting(self) -> bool:
        """By the denoiser's inputs, and what reForge joins to the latents."""
        part = self.denoiser
        inputs, latent = part.model_config.unet_config["in_channels"], part.latent_format.latent_channels
        return bool(inputs == 1 + 2 * latent)

    @property
    def family(self) -> Family:
        """By the text encoders: reForge itself calls every SD2 an SD1."""
        if self.model.is_sdxl:
            return "sdxl"
        return "sd2" if hasattr(self.model.forge_objects_original.clip.cond_stage_model, "clip_h") else "sd1"

    @property
    def config_file(self) -> Path:
        """The ``.yaml`` file beside the checkpoint, which reForge itself does not read."""
        return Path(self.file).with_suffix(".yaml")

    @property
    def prediction(self) -> Prediction:
        """By the classes that reForge puts together for the checkpoint.

        Raises:
            HostError: If it predicts neither noise nor velocity.
        """
        kinds = [kind.__name__ for kind in type(self.denoiser.model_sampling).__mro__]
        others = ("ModelSamplingDiscreteFlow", "ModelSamplingDiscreteEDM", "StableCascadeSampling")
        discrete = "ModelSamplingDiscrete" in kinds and not any(other in kinds for other in others)
        if not discrete or not {"EPS", "V_PREDICTION"} & set(kinds) or {"EDM", "X0"} & set(kinds):
            raise HostError(f"{self.name} predicts neither noise nor velocity: {ADVICE}.")
        return "v_prediction" if "V_PREDICTION" in kinds else "epsilon"

    @property
    def predicts_velocity(self) -> bool:
        """By :attr:`prediction`."""
        return self.prediction == "v_prediction"

    @property
    def schedule(self) -> NoiseSchedule:
        """The checkpoint's own schedule, or with zero terminal SNR where the checkpoint or the user asks for it."""
        sigmas = self.denoiser.model_sampling.sigmas.detach().to("cpu", torch.float64)
        alphas = (1.0 / (1.0 + sigmas**2)).to(torch.float32)
        if host_module("shared").opts.sd_noise_schedule == "Zero Terminal SNR" or getattr(self.model, "ztsnr", False):
            alphas = host_module("sd_models").rescale_zero_terminal_snr_abar(alphas)
        return NoiseSchedule(alphas, self.prediction)

    @property
    def denoiser(self) -> Any:
        """The wrapper that reForge puts around the UNet."""
        return self.model.forge_objects_original.unet.model

    @property
    def unet(self) -> Any:
        """Of ``ldm_patched``."""
        return self.denoiser.diffusion_model

    @property
    def dtype(self) -> torch.dtype:
        """What the denoiser computes in: what its weights are held in, unless reForge casts them as it goes."""
        casting: torch.dtype | None = self.denoiser.manual_cast_dtype
        return self.weights_dtype if casting is None else casting

    def keeps_attention_scores(self, device: torch.device) -> bool:
        """By the attention that reForge chose."""
        chosen = reforge_module("ldm_patched.ldm.modules.attention").optimized_attention.__name__
        return chosen != "attention_xformers" and (
            chosen != "attention_pytorch" or torch_attention_keeps_scores(device)
        )

    @property
    def vae(self) -> Any:
        """The wrapper that reForge puts around the VAE."""
        return self.model.forge_objects_original.vae

    @property
    def vae_scale_factor(self) -> int:
        """As reForge's wrapper has it."""
        return int(self.vae.downscale_ratio)

    def encode_one_by_one(self, images: Iterable[torch.Tensor]) -> Iterator[LatentDistribution]:
        """Without autocast."""
        vae = self.vae
        reforge_module("ldm_patched.modules.model_management").load_models_gpu([vae.patcher])
        module, factor = vae.first_stage_model, float(self.denoiser.latent_format.scale_factor)

        def encode(image: torch.Tensor, _wide: bool) -> torch.Tensor:
            check_images(image, self.vae_scale_factor)
            with torch.no_grad(), without_autocast(vae.device):
                return _encoded(module, image)

        with frozen([module]):
            for mean, std in encode_each(images, encode, lambda: upcast([module], torch.float32)):
                yield LatentDistribution(mean * factor, std * factor)

    @property
    def vae_memory(self) -> VaeMemory | None:
        """Of the VAE that the user chose."""
        vae = self.vae
        return memory_of_original_vae(vae.first_stage_model, vae.device, sdxl=self.family == "sdxl")

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Without autocast, one at a time."""
        check_latents(latents)
        vae = self.vae
        reforge_module("ldm_patched.modules.model_management").load_models_gpu([vae.patcher])
        module, factor = vae.first_stage_model, float(self.denoiser.latent_format.scale_factor)
        with torch.no_grad(), frozen([module]), without_autocast(vae.device):
            return decode_each(latents / factor, partial(decoded, module), partial(decoded_in_float32, module))

    def offload_vae(self) -> None:
        """Unload it as reForge does."""
        memory = reforge_module("ldm_patched.modules.model_management")
        if memory.cpu_mode():
            return
        patcher = self.vae.patcher
        for loaded in [one for one in memory.current_loaded_models if one.model is patcher]:
            memory.current_loaded_models.remove(loaded)
            loaded.model_unload()
        memory.soft_empty_cache()

    def script_runner(self) -> Any:
        """An empty one: reForge fails where there is none."""
        return host_module("scripts").ScriptRunner()


def attention_has_gradients() -> bool:
    """Whether gradients pass the attention that reForge chose."""
    chosen = reforge_module("ldm_patched.ldm.modules.attention").optimized_attention
    return chosen.__name__ in _WITH_GRADIENTS


def _encoded(module: Any, image: torch.Tensor) -> torch.Tensor:
    weight = next(module.encoder.parameters())
    output: torch.Tensor = module.encoder(image.to(weight.device, weight.dtype))
    last = getattr(module, "quant_conv", None)
    return output if last is None else last(output)
