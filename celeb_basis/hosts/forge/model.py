"""The checkpoint that Forge has loaded: its parts, its noise schedule, its VAE and its image generation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from celeb_basis.diffusion_model import LatentDistribution, NoiseSchedule, VaeMemory, check_images, check_latents
from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111.family import ADVICE, LoadedCheckpoint
from celeb_basis.hosts.a1111.model import Decode, process_one_image, recomputed_blocks, txt2img_processing
from celeb_basis.hosts.a1111.modules import host_module, replaced
from celeb_basis.hosts.forge.gradients import casting
from celeb_basis.hosts.forge.modules import embeddings_page, forge_module, silent_text_engines, text_engine_class
from celeb_basis.hosts.torch_utils import (
    NormalWeights,
    decode_each,
    encode_each,
    frozen,
    memory_of_original_vae,
    normal_tensor,
    torch_attention_keeps_scores,
)

if TYPE_CHECKING:
    from PIL import Image

    from celeb_basis.diffusion_model import GenerationRequest

_GRADIENTS = 2
"""Memory of a decoder with gradients, in units of what Forge reserves without."""
_ARCHITECTURES = {
    "StableDiffusion3": "Stable Diffusion 3",
    "Flux2": "Flux 2",
    "QwenImage": "Qwen-Image",
    "Lumina2": "Lumina 2",
    "ZImage": "Z-Image",
    "ErnieImage": "ERNIE-Image",
}
"""By the class of Forge's engine, where its name is not what users call the family."""


def load_selected_checkpoint() -> None:
    """Load the checkpoint that is selected at the top of the page, as Forge itself does no earlier than it generates.

    Raises:
        HostError: If it cannot be loaded.
    """
    models = host_module("sd_models")
    try:
        if not models.model_data.forge_loading_parameters:  # without a page, Forge has looked for none yet
            forge_module("modules_forge.main_entry").refresh_model_loading_parameters()
        models.forge_model_reload()
    except Exception as error:  # whatever its loader meets in a file
        selected = models.model_data.forge_loading_parameters.get("checkpoint_info")
        name = getattr(selected, "name_for_extra", None) or "a checkpoint"
        # What Forge makes of a model that none of its engines takes is ``None``, which it then gives an attribute.
        unknown = isinstance(error, AttributeError) and getattr(error, "obj", "") is None
        reason = "it is of no kind that this Forge knows" if unknown else str(error) or type(error).__name__
        raise HostError(f"Forge cannot load {name} ({reason}): choose another checkpoint.") from error


class ForgeCheckpoint(LoadedCheckpoint):
    """Forge's model as the checkpoint has it: ``forge_objects_original``, without the LoRAs of the last prompt."""

    program = "Forge"

    @classmethod
    def live_model(cls) -> Any:
        """A placeholder of Forge's own before the first checkpoint is loaded."""
        return host_module("sd_models").model_data.sd_model

    def check(self) -> None:
        """Refuse other architectures, refiners, depth, quantized weights and other noise schedules."""
        model, name = self.model, self.name
        if not self.is_stable_diffusion:
            raise HostError(f"{name} is a checkpoint of {self.architecture}: {ADVICE}.")
        if model.is_sdxl and len(self.text_encoders) != 2:
            raise HostError(f"{name} has only one of SDXL's two text encoders, as its refiner does: {ADVICE}.")
        if getattr(model.model_config, "nunchaku", False):
            raise HostError(
                f"{name} is quantized by Nunchaku (SVDQ), which lets no gradients through: use a file of it that is not "
                "quantized."
            )
        unet = self.unet
        if unet.in_channels != self.vae.latent_channels and not self.is_inpainting:
            raise HostError(f"{name} is a depth or another special checkpoint: {ADVICE}.")
        if isinstance(unet.storage_dtype, str) or not unet.storage_dtype.is_floating_point:
            raise HostError(
                f'{name} is held in {unet.storage_dtype}, which lets no gradients through: set "Diffusion in Low Bits" '
                "at the top of Forge's page to Automatic, and use a file that is not quantized."
            )
        predictor, known = self.predictor, ("epsilon", "v_prediction")
        if predictor.prediction_type == "const":
            raise HostError(
                f"{name} is a rectified-flow checkpoint, which is drawn along straight paths instead of by diffusion: {ADVICE} "
                "that predicts noise or velocity."
            )
        if getattr(predictor, "alphas_cumprod", None) is None or predictor.prediction_type not in known:
            raise HostError(f"{name} has a noise schedule of another kind than Stable Diffusion's: {ADVICE}.")

    @property
    def is_inpainting(self) -> bool:
        """By the denoiser's inputs."""
        return bool(self.unet.in_channels == 1 + 2 * self.vae.latent_channels)

    @property
    def is_stable_diffusion(self) -> bool:
        """Whether Forge takes it for a Stable Diffusion 1.x, 2.x or XL."""
        return any(getattr(self.model, flag, False) for flag in ("is_sd1", "is_sd2", "is_sdxl"))

    @property
    def architecture(self) -> str:
        """What users call the family of a checkpoint that is no Stable Diffusion 1.x, 2.x or XL."""
        engine = type(self.model).__name__
        return _ARCHITECTURES.get(engine, engine)

    @property
    def predictor(self) -> Any:
        """What turns Forge's noise levels into timesteps and back."""
        return self.model.forge_objects_original.unet.model.predictor

    @property
    def predicts_velocity(self) -> bool:
        """By the predictor's type."""
        return bool(self.predictor.prediction_type == "v_prediction")

    @property
    def schedule(self) -> NoiseSchedule:
        """The checkpoint's own schedule, or with zero terminal SNR where that is set."""
        alphas = normal_tensor(self.predictor.alphas_cumprod.detach()).to("cpu", torch.float32).clone()
        if getattr(host_module("shared").opts, "sd_noise_schedule", None) == "Zero Terminal SNR" or getattr(
            self.model.model_config, "ztsnr", False
        ):
            sigmas = ((1 - alphas) / alphas) ** 0.5
            sigmas = forge_module("backend.modules.k_prediction").rescale_zero_terminal_snr_sigmas(sigmas)
            alphas = 1 / (sigmas**2 + 1)
        return NoiseSchedule(alphas, "v_prediction" if self.predicts_velocity else "epsilon")

    @property
    def unet(self) -> Any:
        """Forge's own UNet."""
        return self.model.forge_objects_original.unet.model.diffusion_model

    @property
    def dtype(self) -> torch.dtype:
        """What the denoiser's weights are held in, or computed in where they are stored in 8 bits."""
        unet = self.unet
        dtype: torch.dtype = unet.storage_dtype if unet.storage_dtype.itemsize > 1 else unet.computation_dtype
        return dtype

    def keeps_attention_scores(self, device: torch.device) -> bool:
        """By the attention that Forge chose."""
        chosen = getattr(forge_module("backend.attention").attention_function, "__name__", "")
        return chosen != "attention_xformers" and (
            chosen != "attention_pytorch" or torch_attention_keeps_scores(device)
        )

    @property
    def vae(self) -> Any:
        """Forge's wrapper of the VAE."""
        return self.model.forge_objects_original.vae

    @property
    def vae_scale_factor(self) -> int:
        """As Forge's wrapper has it."""
        return int(self.vae.downscale_ratio)

    def encode_one_by_one(self, images: Iterable[torch.Tensor]) -> Iterator[LatentDistribution]:
        """In the precision that Forge holds the VAE in."""
        vae = self.vae
        module = vae.first_stage_model
        with torch.inference_mode():
            forge_module("backend.memory_management").load_models_gpu([vae.patcher])

        def encode(image: torch.Tensor, wide: bool) -> torch.Tensor:
            check_images(image, self.vae_scale_factor)
            with torch.no_grad():
                return _encoded(vae, torch.float32 if wide else vae.vae_dtype, image)

        for mean, std in encode_each(images, encode, lambda: casting(module, torch.float32)):
            yield LatentDistribution(module.process_in(mean), std * float(module.scaling_factor))

    @property
    def vae_memory(self) -> VaeMemory | None:
        """Of the VAE that the user chose."""
        vae = self.vae
        return memory_of_original_vae(vae.first_stage_model, vae.device, sdxl=self.family == "sdxl")

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """In the precision that Forge holds the VAE in, one at a time."""
        check_latents(latents)
        vae = self.vae
        with torch.inference_mode():
            forge_module("backend.memory_management").load_models_gpu([vae.patcher])
        latents = vae.first_stage_model.process_out(latents)
        with torch.no_grad():
            return decode_each(latents, partial(_decoded, vae, vae.vae_dtype), partial(_decoded_in_float32, vae))

    @contextmanager
    def decoding_with_gradients(self, latents: torch.Tensor) -> Iterator[Decode]:
        """The VAE's decoder, differentiable, in float32 on the device; most of it is computed again on the way back.

        Where Forge had to unload the denoiser for it, the denoiser is loaded again afterwards: the sampler goes on.

        Args:
            latents: What is going to be decoded, one by one.
        """
        memory, vae = forge_module("backend.memory_management"), self.vae
        module = vae.first_stage_model
        needed = _GRADIENTS * vae.memory_used_decode((1, *latents.shape[1:]), torch.float32)
        with torch.inference_mode():
            memory.load_models_gpu([vae.patcher], memory_required=needed)
        weights = NormalWeights([module])
        try:
            weights.enable()
            with frozen([module]), casting(module, torch.float32), recomputed_blocks(module.decoder):
                yield lambda scaled: _decoded(vae, torch.float32, module.process_out(scaled))
        finally:
            weights.restore()
            with torch.inference_mode():
                memory.load_models_gpu([self.model.forge_objects.unet])

    def offload_vae(self) -> None:
        """Unload it as Forge does."""
        memory = forge_module("backend.memory_management")
        if memory.cpu_mode():
            return
        patcher = self.vae.patcher
        for loaded in [one for one in memory.current_loaded_models if one.model is patcher]:
            memory.current_loaded_models.remove(loaded)
            with torch.inference_mode():
                loaded.model_unload()
        memory.soft_empty_cache()

    @property
    def text_model(self) -> Any:
        """Of Forge's wrapper of the text encoders."""
        return self.model.forge_objects_original.clip.cond_stage_model

    @property
    def text_encoders(self) -> list[Any]:
        """One of CLIP's text engines, or (SDXL) two; none for models without CLIP."""
        kind = text_engine_class()
        names = ("text_processing_engine", "text_processing_engine_l", "text_processing_engine_g")
        return [engine for name in names if isinstance(engine := getattr(self.model, name, None), kind)]

    @property
    def embedding_keys(self) -> list[str]:
        """Forge's keys are the names that exported files use."""
        return [engine.embedding_key for engine in self.text_encoders]

    @property
    def embedding_databases(self) -> Sequence[Any]:
        """One for each text engine."""
        return [engine.embeddings for engine in self.text_encoders]

    @property
    def text_device(self) -> torch.device:
        """As Forge's memory management has it."""
        device: torch.device = forge_module("backend.memory_management").text_encoder_device()
        return device

    def token_embedding(self, text_encoder: Any) -> Any:
        """Inside the engine's transformers model."""
        return text_encoder.text_encoder.transformer.text_model.embeddings.token_embedding

    def token_table(self, index: int) -> torch.Tensor:
        """A normal tensor over the same memory."""
        return normal_tensor(super().token_table(index))

    def text_encoder_module(self, text_encoder: Any) -> torch.nn.Module:
        """The engine's transformers model."""
        module: torch.nn.Module = text_encoder.text_encoder.transformer
        return module

    def encode_prompts(self, prompts: Sequence[str], width: int, height: int) -> Mapping[str, torch.Tensor]:
        """By ``get_learned_conditioning``, as normal tensors, whatever mode they were computed in."""
        self.model.set_clip_skip(int(host_module("shared").opts.CLIP_stop_at_last_layers))
        batch = host_module("prompt_parser").SdConditioning(list(prompts), width=width, height=height)
        with silent_text_engines():
            conditioning = _without_inference_mode(self.model.get_learned_conditioning)(batch)
        parts = conditioning if isinstance(conditioning, dict) else {"crossattn": conditioning}
        return {name: normal_tensor(part) for name, part in parts.items()}

    def size_embedding(self, count: int, width: int, height: int) -> torch.Tensor:
        """By the model's embedder of numbers."""
        opts = host_module("shared").opts
        sizes = [height, width, opts.sdxl_crop_top, opts.sdxl_crop_left, height, width]
        parts = [self.model.embedder(torch.Tensor([size])) for size in sizes]
        return torch.cat(parts).flatten()[None].repeat(count, 1)

    def generate_image(
        self, request: GenerationRequest, prompts: tuple[str, str], seed: int, size: tuple[int, int]
    ) -> Image.Image | None:
        """By ``process_images``, while the loaded checkpoint stays."""
        processing, models = host_module("processing"), host_module("sd_models")
        p = txt2img_processing(request, prompts, seed, size)
        # Forge remembers conditionings by prompt for all generations, and would use a token's old vectors.
        p.cached_c, p.cached_uc = [None, None, None], [None, None, None]
        # Forge loads what is selected at the top of its page before it generates, which may be another checkpoint by now.
        # As long as it takes that for the loaded one, it stays, and finds out at the user's own next image.
        selected = str(models.model_data.forge_loading_parameters)
        stays = replaced(models.model_data, forge_hash=selected), replaced(processing, need_global_unload=False)
        return process_one_image(p, *stays)


def embedding_databases() -> list[Any]:
    """The loaded model's databases of embeddings, and the page's, which is there before any model is."""
    checkpoint = ForgeCheckpoint.current_or_none()
    page = embeddings_page()
    return [
        *([] if checkpoint is None else checkpoint.embedding_databases),
        *([] if page is None else [page.embedding_db]),
    ]


def _encoded(vae: Any, dtype: torch.dtype, image: torch.Tensor) -> torch.Tensor:
    module = vae.first_stage_model
    output: torch.Tensor = module.encoder(image.to(vae.device, dtype))
    return output if module.quant_conv is None else module.quant_conv(output)


def _decoded(vae: Any, dtype: torch.dtype, latent: torch.Tensor) -> torch.Tensor:
    module = vae.first_stage_model
    latent = latent.to(vae.device, dtype)
    output: torch.Tensor = module.decoder(latent if module.post_quant_conv is None else module.post_quant_conv(latent))
    return output


def _decoded_in_float32(vae: Any, latent: torch.Tensor) -> torch.Tensor:
    with casting(vae.first_stage_model, torch.float32):
        return _decoded(vae, torch.float32, latent)


def _without_inference_mode(method: Any) -> Callable[..., Any]:
    """A method as it was before ``torch.inference_mode`` decorated it."""
    plain = getattr(method.__func__, "__wrapped__", None)
    return method if plain is None else plain.__get__(method.__self__)  # type: ignore[no-any-return]
