"""The checkpoint that AUTOMATIC1111's WebUI has loaded: its parts, its noise schedule, its VAE and its image generation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from celeb_basis.diffusion_model import LatentDistribution, NoiseSchedule, VaeMemory, check_images, check_latents
from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111.family import ADVICE, LoadedCheckpoint
from celeb_basis.hosts.a1111.modules import host_module, replaced, replaced_options
from celeb_basis.hosts.torch_utils import (
    decode_each,
    encode_each,
    frozen,
    memory_of_original_vae,
    preserved_random_state,
    recomputed,
    torch_attention_keeps_scores,
    upcast,
    without_autocast,
)

if TYPE_CHECKING:
    from PIL import Image

    from celeb_basis.diffusion_model import GenerationRequest

_NOT_PLAIN = {
    "hybrid": "a depth checkpoint",
    "concat": "a checkpoint",
    "crossattn-adm": "an unCLIP checkpoint",
    "adm": "an unCLIP checkpoint",
    "hybrid-adm": "an upscaler",
}
_VAE_BLOCKS = ("ResnetBlock", "AttnBlock")
_PROGRESS = ("job_no", "job_count", "sampling_step", "sampling_steps", "textinfo", "current_latent")


Decode: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""Decodes ``(1, C, h, w)`` scaled latents to ``(1, 3, H, W)`` RGB in about [-1, 1]."""


class A1111Checkpoint(LoadedCheckpoint):
    """Stable Diffusion of the original code (``ldm``, ``sgm``), as the WebUI has loaded and changed it."""

    program = "The WebUI"

    @classmethod
    def live_model(cls) -> Any:
        """Loads a checkpoint where the WebUI has none yet."""
        return host_module("shared").sd_model

    def check(self) -> None:
        """Refuse depth, unCLIP, InstructPix2Pix, refiners and other architectures."""
        model, name = self.model, self.name
        if getattr(model, "is_sd3", False):
            raise HostError(f"{name} is a checkpoint of Stable Diffusion 3: {ADVICE}.")
        if getattr(model, "cond_stage_key", None) == "edit":
            raise HostError(f"{name} is an InstructPix2Pix checkpoint: {ADVICE}.")
        key = getattr(model.model, "conditioning_key", "crossattn")
        if not self.is_inpainting and (key != "crossattn" or self.unet.in_channels != model.latent_channels):
            kind = _NOT_PLAIN.get(key, "a special checkpoint")
            raise HostError(f"{name} is {kind}, which needs more than a prompt: {ADVICE}.")
        encoders = self.text_encoders
        if self.family == "sdxl" and len(encoders) != 2:
            raise HostError(f"{name} has only one of SDXL's two text encoders, as its refiner does: {ADVICE}.")
        for encoder in encoders:
            if not (hasattr(encoder.wrapped, "transformer") or hasattr(encoder.wrapped, "model")):
                raise HostError(f"The text encoder of {name} is not CLIP's: {ADVICE}.")

    @property
    def is_inpainting(self) -> bool:
        """By the denoiser's inputs, and how the WebUI joins them."""
        model = self.model
        joined = getattr(model.model, "conditioning_key", "crossattn") == "hybrid" or getattr(
            model, "is_sdxl_inpaint", False
        )
        return bool(joined and self.unet.in_channels == 1 + 2 * model.latent_channels)

    @property
    def config_file(self) -> Path:
        """The file that the WebUI built the model from."""
        return Path(str(getattr(self.model, "used_config", None)))

    @property
    def predicts_velocity(self) -> bool:
        """``parameterization: v`` of the checkpoint's config."""
        return bool(self.model.parameterization == "v")

    @property
    def schedule(self) -> NoiseSchedule:
        """The checkpoint's own schedule, or with zero terminal SNR where the user set that.

        ``alphas_cumprod`` of the model itself depends on the last generation. The setting that rounds it to half
        precision only reproduces old images and is not trained with.
        """
        model = self.model
        alphas = getattr(model, "alphas_cumprod_original", model.alphas_cumprod).detach()
        alphas = alphas.to("cpu", torch.float32).clone()
        if host_module("shared").opts.sd_noise_schedule == "Zero Terminal SNR":
            alphas = host_module("sd_models").rescale_zero_terminal_snr_abar(alphas)
        return NoiseSchedule(alphas, "v_prediction" if self.predicts_velocity else "epsilon")

    @property
    def unet(self) -> Any:
        """``ldm``'s or ``sgm``'s UNet."""
        return self.model.model.diffusion_model

    @property
    def dtype(self) -> torch.dtype:
        """What the denoiser's weights are held in, or computed in where they are stored in 8 bits."""
        if self.weights_dtype.itemsize > 1:
            return self.weights_dtype
        computed: torch.dtype = host_module("devices").dtype
        return computed

    def keeps_attention_scores(self, device: torch.device) -> bool:
        """By the optimization that the user chose.

        xformers and, on graphics cards, torch's own keep a row's sum. Sub-quadratic attention would compute its chunks
        again if the denoiser were in training mode. It is in evaluation mode, so every chunk's scores are kept.
        """
        chosen = getattr(host_module("sd_hijack").current_optimizer, "name", None) or ""
        if chosen == "xformers":
            return False
        return not chosen.startswith("sdp") or torch_attention_keeps_scores(device)

    @property
    def vae_scale_factor(self) -> int:
        """From the number of the encoder's levels."""
        return int(2 ** (self.model.first_stage_model.encoder.num_resolutions - 1))

    def encode_one_by_one(self, images: Iterable[torch.Tensor]) -> Iterator[LatentDistribution]:
        """Without autocast."""
        vae = self.load_vae()
        device, factor = host_module("devices").device, float(self.model.scale_factor)

        def encode(image: torch.Tensor, _wide: bool) -> torch.Tensor:
            check_images(image, self.vae_scale_factor)
            with torch.no_grad(), without_autocast(device):
                return _encoded(vae, image)

        with frozen([vae]):
            for mean, std in encode_each(images, encode, lambda: upcast([vae], torch.float32)):
                yield LatentDistribution(mean * factor, std * factor)

    @property
    def vae_memory(self) -> VaeMemory | None:
        """Of the VAE that the user chose."""
        device = host_module("devices").device
        return memory_of_original_vae(self.model.first_stage_model, device, sdxl=self.family == "sdxl")

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Without autocast, one at a time."""
        check_latents(latents)
        vae = self.load_vae()
        latents = latents / float(self.model.scale_factor)
        with torch.no_grad(), frozen([vae]), without_autocast(host_module("devices").device):
            return decode_each(latents, partial(decoded, vae), partial(decoded_in_float32, vae))

    @contextmanager
    def decoding_with_gradients(self, latents: torch.Tensor) -> Iterator[Decode]:
        """The VAE's decoder, differentiable, in float32 on the device; most of it is computed again on the way back.

        Under ``--medvram`` the VAE takes the denoiser's place until the denoiser is called again, as in the WebUI.

        Args:
            latents: What is going to be decoded.
        """
        del latents
        vae = self.load_vae()
        parts = [part for part in (vae.decoder, getattr(vae, "post_quant_conv", None)) if part is not None]
        factor, device = float(self.model.scale_factor), host_module("devices").device
        with (
            frozen([vae]),
            upcast(parts, torch.float32),  # half precision overflows, forwards in SDXL's and on the way back in others
            without_autocast(device),
            _without_casts_of_layers(),
            recomputed_blocks(vae.decoder),
        ):
            yield lambda scaled: decoded(vae, scaled / factor)

    def load_vae(self) -> Any:
        """Move the VAE to the device. Under ``--medvram`` it takes the place of what is there, as in the WebUI."""
        lowvram, devices = host_module("lowvram"), host_module("devices")
        vae = self.model.first_stage_model
        if getattr(self.model, "lowvram", False) and lowvram.module_in_gpu is not vae:
            lowvram.send_everything_to_cpu()
            lowvram.module_in_gpu = vae
        vae.to(devices.device)
        return vae

    def load_vae_for_generation(self) -> None:
        """Move the VAE to the device, where the WebUI assumes it to be, unless ``--medvram`` does that itself."""
        if not getattr(self.model, "lowvram", False):
            self.load_vae()

    def offload_vae(self) -> None:
        """Move the VAE to the CPU."""
        lowvram, devices = host_module("lowvram"), host_module("devices")
        if devices.device.type == "cpu":
            return
        if lowvram.module_in_gpu is self.model.first_stage_model:
            lowvram.module_in_gpu = None
        self.model.first_stage_model.to(devices.cpu)
        devices.torch_gc()

    @property
    def text_model(self) -> Any:
        """SDXL's conditioner, or the one text encoder."""
        return self.model.conditioner if self.model.is_sdxl else self.model.cond_stage_model

    @property
    def text_encoders(self) -> list[Any]:
        """``FrozenCLIPEmbedderWithCustomWords`` and the like."""
        if self.model.is_sdxl:
            return [part for part in self.model.conditioner.embedders if hasattr(part, "encode_embedding_init_text")]
        return [self.model.cond_stage_model]

    @property
    def embedding_keys(self) -> list[str]:
        """The WebUI itself calls the one text encoder of any SD1 or SD2 ``clip_l``."""
        return [self.token_embedding(encoder).textual_inversion_key for encoder in self.text_encoders]

    @property
    def embedding_databases(self) -> Sequence[Any]:
        """One for all text encoders."""
        return [host_module("sd_hijack").model_hijack.embedding_db]

    @property
    def text_device(self) -> torch.device:
        """The WebUI's only device."""
        device: torch.device = host_module("devices").device
        return device

    def token_embedding(self, text_encoder: Any) -> Any:
        """Inside the transformers model of SD1, or the OpenCLIP model of SD2."""
        wrapped = text_encoder.wrapped
        if hasattr(wrapped, "transformer"):
            return wrapped.transformer.text_model.embeddings.token_embedding
        return wrapped.model.token_embedding

    def text_encoder_module(self, text_encoder: Any) -> torch.nn.Module:
        """The transformers or OpenCLIP model inside the WebUI's wrapper, without OpenCLIP's part for images."""
        wrapped = text_encoder.wrapped
        module: torch.nn.Module = wrapped.transformer if hasattr(wrapped, "transformer") else wrapped.model
        return module

    def encode_prompts(self, prompts: Sequence[str], width: int, height: int) -> Mapping[str, torch.Tensor]:
        """By ``get_learned_conditioning``."""
        if not self.model.is_sdxl:
            return {"crossattn": self.model.get_learned_conditioning(list(prompts))}
        batch = host_module("prompt_parser").SdConditioning(list(prompts), width=width, height=height)
        with _gradients_through(self.text_encoders):
            conditioning: dict[str, torch.Tensor] = self.model.get_learned_conditioning(batch)
        return conditioning

    def size_embedding(self, count: int, width: int, height: int) -> torch.Tensor:
        """By those of the conditioner's embedders that are no text encoders."""
        devices, opts = host_module("devices"), host_module("shared").opts
        sizes = {
            "original_size_as_tuple": [height, width],
            "crop_coords_top_left": [opts.sdxl_crop_top, opts.sdxl_crop_left],
            "target_size_as_tuple": [height, width],
        }
        encoders = set(map(id, self.text_encoders))
        parts = []
        with torch.no_grad():
            for embedder in self.model.conditioner.embedders:
                if id(embedder) not in encoders:
                    given = torch.tensor(sizes[embedder.input_key], device=devices.device, dtype=devices.dtype)
                    parts.append(embedder(given.repeat(count, 1)))
        return torch.cat(parts, dim=1)

    def generate_image(
        self, request: GenerationRequest, prompts: tuple[str, str], seed: int, size: tuple[int, int]
    ) -> Image.Image | None:
        """By ``process_images``, while the loaded checkpoint and its weights stay as they are."""
        p = txt2img_processing(request, prompts, seed, size)
        p.scripts = self.script_runner()
        # The WebUI remembers conditionings by prompt for all generations, and would use a token's old vectors.
        p.cached_c, p.cached_uc = [None, None], [None, None]
        # The WebUI loads what its settings name before it generates, which is another checkpoint if the user has chosen
        # one in the meantime.
        title = self.model.sd_checkpoint_info.title
        return process_one_image(p, replaced_options(sd_model_checkpoint=title), _weights_stay())

    def script_runner(self) -> Any:
        """No scripts. A fork that needs an empty runner makes one."""
        return None


def txt2img_processing(request: GenerationRequest, prompts: tuple[str, str], seed: int, size: tuple[int, int]) -> Any:
    """The host's processing for the arguments of :meth:`LoadedCheckpoint.generate_image`; it saves nothing."""
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


def process_one_image(p: Any, *contexts: AbstractContextManager[None]) -> Image.Image | None:
    """Run a processing of one image and leave no traces in the host's state.

    Args:
        p: The host's processing, which is closed afterwards.
        contexts: Keep the host from switching the checkpoint.

    Returns:
        The image, or ``None`` if the user interrupted the host.
    """
    shared = host_module("shared")
    progress = {name: getattr(shared.state, name) for name in _PROGRESS}
    with closing(p), ExitStack() as stack:
        stack.enter_context(preserved_random_state())
        stack.enter_context(replaced_options(live_previews_enable=False))
        for context in contexts:
            stack.enter_context(context)
        # Otherwise the "restore last prompt" button would bring back a preview's.
        stack.enter_context(replaced(shared.cmd_opts, no_prompt_history=True))
        stack.enter_context(replaced(shared.state, **progress))
        images = host_module("processing").process_images(p).images
    return images[0].convert("RGB") if images else None


@contextmanager
def _weights_stay() -> Iterator[None]:
    """Keep the WebUI from loading the checkpoint again to store it in 8 bits, or to stop doing so.

    It would before it generates, where the setting and what it remembers of the weights differ: while training, weights of
    8 bits are upcast, and the WebUI remembers the wider dtype.
    """
    models, devices = host_module("sd_models"), host_module("devices")
    known = {"check_fp8": lambda _model: devices.fp8} if hasattr(models, "check_fp8") else {}
    with replaced(models, **known):
        yield


def _encoded(vae: Any, image: torch.Tensor) -> torch.Tensor:
    """``encode`` of SDXL's VAE would draw a sample; here both kinds are asked for the distribution itself."""
    weight = vae.quant_conv.weight
    output: torch.Tensor = vae.quant_conv(vae.encoder(image.to(weight.device, weight.dtype)))
    return output


def decoded(vae: Any, latent: torch.Tensor) -> torch.Tensor:
    """The picture of one latent by a VAE of the original code; some forks' have no first convolution."""
    weight = next(vae.decoder.parameters())
    latent = latent.to(weight.device, weight.dtype)
    first = getattr(vae, "post_quant_conv", None)
    output: torch.Tensor = vae.decoder(latent if first is None else first(latent))
    return output


@contextmanager
def recomputed_blocks(decoder: torch.nn.Module) -> Iterator[None]:
    """Gradient checkpointing in the blocks of a VAE's decoder of the original code."""
    with ExitStack() as stack:
        for part in decoder.modules():
            if any(kind.__name__ in _VAE_BLOCKS for kind in type(part).__mro__):
                stack.enter_context(replaced(part, forward=recomputed(part.forward)))
        yield


@contextmanager
def _without_casts_of_layers() -> Iterator[None]:
    """Without what the WebUI has in place of autocast on devices that lack it: layers' own casts to half precision."""
    layers = getattr(host_module("devices"), "patch_module_list", ())
    with ExitStack() as stack:
        for layer in layers:
            if (forward := vars(layer).get("org_forward")) is not None:
                stack.enter_context(replaced(layer, forward=forward))
        yield


def decoded_in_float32(vae: Any, latent: torch.Tensor) -> torch.Tensor:
    """:func:`decoded` with the weights widened."""
    with upcast([vae], torch.float32):
        return decoded(vae, latent)


@contextmanager
def _gradients_through(text_encoders: list[Any]) -> Iterator[None]:
    """SDXL's conditioner computes without gradients what is not marked as trainable."""
    with ExitStack() as stack:
        if torch.is_grad_enabled():
            for encoder in text_encoders:
                stack.enter_context(replaced(encoder, is_trainable=True))
        yield
