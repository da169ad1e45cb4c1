"""A loaded diffusers pipeline as a :class:`celeb_basis.hosts.base.Host`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import HostError
from celeb_basis.hosts.base import LatentDistribution, MemoryFacts, ModelInfo, NoiseSchedule
from celeb_basis.hosts.devices import check_autocast, torch_attention_keeps_scores
from celeb_basis.hosts.diffusers.checks import check_pipeline, family_of, noise_schedule, sampler
from celeb_basis.hosts.diffusers.fingerprint import sha256_of_modules
from celeb_basis.hosts.diffusers.freezing import checkpointed
from celeb_basis.hosts.diffusers.text import DiffusersTextEncoder
from celeb_basis.hosts.freezing import frozen, widened
from celeb_basis.hosts.memory import memory_facts
from celeb_basis.hosts.requests import ENCODER_NAMES, check_batch, check_pictures, picture_size

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from celeb_basis.hosts.base import Conditioning, GenerationRequest, Precision, Words


@dataclass(frozen=True)
class _Encoded:
    """What :meth:`DiffusersHost.encode_prompts` hands to :meth:`DiffusersHost.predict`."""

    states: torch.Tensor
    """``(N, 77, width)``."""
    pooled: torch.Tensor | None
    """``(N, P)`` for SDXL."""


class DiffusersHost:
    """Stable Diffusion 1.x, 2.x or XL in diffusers. No safety checker is ever loaded or run.

    Parameters:
        pipeline: a ``StableDiffusionPipeline`` or ``StableDiffusionXLPipeline``; its weights are never changed.
        name: what people call the checkpoint.
        sha256: hex digest of the weight files; of the weights in memory if ``None``.

    Raises: :class:`HostError` for a pipeline that is not plain text-to-image.
    """

    def __init__(self, pipeline: Any, *, name: str = "model", sha256: str | None = None) -> None:
        check_pipeline(pipeline)
        self._pipeline = pipeline
        self._unet: Any = pipeline.unet
        self._vae: Any = pipeline.vae
        self._name = name
        self._sha256 = sha256
        self._family = family_of(pipeline)
        self._autocast: torch.dtype | None = None
        parts = [(pipeline.text_encoder, pipeline.tokenizer)]
        if self._family == "sdxl":
            parts.append((pipeline.text_encoder_2, pipeline.tokenizer_2))
        names = ENCODER_NAMES[self._family]
        self._text_models = [model for model, _ in parts]
        self._encoders = [DiffusersTextEncoder(name, *part) for name, part in zip(names, parts, strict=True)]
        self._schedule = noise_schedule(pipeline.scheduler)

    @cached_property
    def info(self) -> ModelInfo:
        sample = self._unet.config.sample_size
        side = sample if isinstance(sample, int) else min(sample or [64])
        levels = len(self._unet.config.block_out_channels)
        return ModelInfo(
            name=self._name,
            family=self._family,
            sha256=self._sha256 or sha256_of_modules([self._unet, *self._text_models, self._vae]),
            resolution=side * self._latent_pixel,
            size_multiple=self._latent_pixel * 2 ** (levels - 1),
        )

    @property
    def text_encoders(self) -> Sequence[DiffusersTextEncoder]:
        return self._encoders

    @property
    def schedule(self) -> NoiseSchedule:
        return self._schedule

    @property
    def device(self) -> torch.device:
        # diffusers' own properties walk through the whole UNet at every call, which a step would feel
        device: torch.device = next(self._unet.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = next(self._unet.parameters()).dtype
        return dtype

    def memory(self) -> MemoryFacts:
        """diffusers computes attention in torch's own way."""
        return memory_facts(
            self._unet,
            [self._unet, *self._text_models],
            self.device,
            latent_pixel=self._latent_pixel,
            keeps_scores=torch_attention_keeps_scores(self.device),
        )

    @contextmanager
    def learning(self, precision: Precision, *, checkpointing: bool = False) -> Iterator[None]:
        import torch

        wanted = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        denoising = [self._unet, *self._text_models]
        before = self._autocast
        with ExitStack() as stack:
            stack.enter_context(frozen([*denoising, self._vae]))
            stack.enter_context(checkpointed(self._unet, checkpointing))
            if any(module.dtype != wanted for module in denoising):
                # Also from one half precision to the other: autocast starts from float32.
                if wanted != torch.float32:
                    check_autocast(self.device, wanted)
                stack.enter_context(widened(denoising, torch.float32))
                self._autocast = None if wanted == torch.float32 else wanted
            else:
                self._autocast = None
            try:
                yield
            finally:
                self._autocast = before

    def encode_pictures(self, pictures: torch.Tensor) -> LatentDistribution:
        import torch

        check_pictures(pictures, self._latent_pixel)
        config = self._vae.config
        factor, shift = float(config.scaling_factor), float(getattr(config, "shift_factor", None) or 0.0)
        means, stds = [], []
        with torch.no_grad(), self._held_vae() as vae:
            for picture in pictures:
                moments = vae.encode(picture[None].to(vae.device, vae.dtype)).latent_dist
                means.append((moments.mean.float() - shift) * factor)
                stds.append(moments.std.float() * factor)
        return LatentDistribution(torch.cat(means).cpu(), torch.cat(stds).cpu())

    def release_picture_encoder(self) -> None:
        import torch

        if self.device.type != "cpu":
            self._vae.to("cpu")
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def encode_prompts(self, prompts: Sequence[str], words: Words) -> Conditioning:
        import torch

        if not prompts:
            raise HostError("There are no prompts to encode: give at least one.")
        penultimate = self._family == "sdxl"
        states, pooled = [], None
        with self._computing():
            for which, (encoder, model) in enumerate(zip(self._encoders, self._text_models, strict=True)):
                of_encoder, of_pooled = encoder.encode(prompts, words, which, penultimate=penultimate)
                states.append(of_encoder.to(self.device, model.dtype))
                pooled = of_pooled if pooled is None else pooled
        together = states[0] if len(states) == 1 else torch.cat(states, dim=-1).to(self._text_models[-1].dtype)
        return _Encoded(together, None if pooled is None else pooled.to(self.device))

    def predict(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        check_batch(latents, timesteps, len(conditioning.states))
        added = None
        if conditioning.pooled is not None:
            added = {"text_embeds": conditioning.pooled.to(self.dtype), "time_ids": self._time_ids(latents)}
        with self._computing():
            output: torch.Tensor = self._unet(
                latents.to(self.device, self.dtype),
                timesteps.to(self.device),
                encoder_hidden_states=conditioning.states.to(self.dtype),
                added_cond_kwargs=added,
                return_dict=False,
            )[0]
        return output.float()

    def generate(self, request: GenerationRequest) -> Iterator[Image.Image]:
        """DDIM without noise, as the paper samples; noise is drawn on the CPU, so that a seed means the same everywhere."""
        import torch

        width, height = picture_size(request, self.info, self._latent_pixel, self.schedule.timesteps)
        pipeline = self._sampling_pipeline()
        with torch.no_grad():
            encoded = self._generation_prompts(request)
        for number in range(request.count):
            with torch.no_grad(), frozen([self._unet]), self._held_vae() as vae:
                latents = pipeline(
                    **encoded,
                    width=width,
                    height=height,
                    num_inference_steps=request.steps,
                    guidance_scale=request.guidance,
                    eta=0.0,
                    generator=torch.Generator().manual_seed((request.seed + number) % 2**63),
                    output_type="latent",
                ).images
                # The pipeline itself would not decode where the VAE is held in another precision than the denoiser.
                decoded = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
            picture: Image.Image = pipeline.image_processor.postprocess(decoded, output_type="pil")[0]
            yield picture.convert("RGB")

    @property
    def _latent_pixel(self) -> int:
        """Side in pixels of what one place of a latent stands for."""
        return int(2 ** (len(self._vae.config.block_out_channels) - 1))

    def _computing(self) -> AbstractContextManager[Any]:
        import torch

        if self._autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self._autocast)

    @contextmanager
    def _held_vae(self) -> Iterator[Any]:
        """The VAE on the device and evaluating, in float32 where half precision would overflow (SDXL's)."""
        import torch

        self._vae.to(self.device)
        overflows = self._vae.dtype == torch.float16 and getattr(self._vae.config, "force_upcast", False)
        wide = widened([self._vae], torch.float32) if overflows else nullcontext()
        with frozen([self._vae]), wide:
            yield self._vae

    def _time_ids(self, latents: torch.Tensor) -> torch.Tensor:
        """SDXL's size conditioning ``(N, 6)``: original size, crop and target size of a picture that was not cropped."""
        import torch

        height, width = (side * self._latent_pixel for side in latents.shape[-2:])
        ids = torch.tensor([[height, width, 0, 0, height, width]], device=self.device, dtype=self.dtype)
        return ids.expand(len(latents), -1)

    def _sampling_pipeline(self) -> Any:
        """A second pipeline over the same modules, with DDIM; the one given is not touched."""
        parts = {**self._pipeline.components, "scheduler": sampler(self._pipeline.scheduler)}
        if self._family == "sdxl":
            parts["add_watermarker"] = False
        else:
            parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipeline = type(self._pipeline)(**parts)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _generation_prompts(self, request: GenerationRequest) -> dict[str, torch.Tensor]:
        import torch

        positive = self.encode_prompts([request.prompt], request.words)
        arguments = {"prompt_embeds": positive.states, "pooled_prompt_embeds": positive.pooled}
        if request.guidance > 1.0:
            negative = self.encode_prompts([request.negative_prompt], request.words)
            states, pooled = negative.states, negative.pooled
            if not request.negative_prompt and self._pipeline.config.get("force_zeros_for_empty_prompt", False):
                # SDXL was trained with zeros for no prompt
                states, pooled = torch.zeros_like(states), torch.zeros_like(pooled)
            arguments |= {"negative_prompt_embeds": states, "negative_pooled_prompt_embeds": pooled}
        return {key: value for key, value in arguments.items() if value is not None}


if TYPE_CHECKING:
    from celeb_basis.hosts.base import Host

    _FITS: type[Host] = DiffusersHost  # the type checker's proof that the interface is met
