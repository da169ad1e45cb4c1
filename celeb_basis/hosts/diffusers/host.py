"""A loaded diffusers pipeline as a :class:`~celeb_basis.diffusion_model.DiffusionModel`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from celeb_basis.diffusion_model import (
    ENCODER_NAMES,
    Conditioning,
    DiffusionModel,
    GenerationRequest,
    LatentDistribution,
    MemoryStats,
    ModelInfo,
    NoiseSchedule,
    PlaceholderTokens,
    Precision,
    TensorCall,
    check_batch,
    check_images,
    check_latents,
    image_size,
    to_device,
)
from celeb_basis.errors import HostError
from celeb_basis.hosts.diffusers.autoencoder import Autoencoder
from celeb_basis.hosts.diffusers.digests import sha256_of_modules
from celeb_basis.hosts.diffusers.pipelines import (
    check_pipeline,
    family_of,
    gradient_checkpointing,
    is_inpainting,
    noise_schedule,
    refine_steps,
    sampler,
)
from celeb_basis.hosts.diffusers.regional import EncodedRegion, regional
from celeb_basis.hosts.diffusers.text import DiffusersTextEncoder
from celeb_basis.hosts.held_weights import DTYPES, all_in, check_computes_in, held
from celeb_basis.hosts.inpainting import MaskedImage
from celeb_basis.hosts.torch_utils import (
    ChannelsLast,
    channels_last_pays,
    frozen,
    memory_stats,
    torch_attention_keeps_scores,
)
from celeb_basis.sampling import sample, sampling_points

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class _Encoded:
    """Encoded prompts: the output of :meth:`DiffusersHost.encode_prompts`, the input of :meth:`DiffusersHost.predict`."""

    states: torch.Tensor
    """``(N, 77, width)``."""
    pooled: torch.Tensor | None
    """``(N, P)`` for SDXL."""


class DiffusersHost(DiffusionModel):
    """Stable Diffusion 1.x, 2.x or XL in diffusers. No safety checker is ever loaded or run.

    Args:
        pipeline: A ``StableDiffusionPipeline`` or ``StableDiffusionXLPipeline``. Its weights are never changed.
        name: The checkpoint's name, for people to read.
        sha256: Hex digest of the weight files. If ``None``, it is computed from the weights in memory.

    Raises:
        HostError: The pipeline draws by more than a prompt; an inpainting one draws the whole image.
    """

    def __init__(self, pipeline: Any, *, name: str = "model", sha256: str | None = None) -> None:
        check_pipeline(pipeline)
        self._pipeline = pipeline
        self._unet: Any = pipeline.unet
        self._vae = Autoencoder(pipeline.vae)
        self._name = name
        self._sha256 = sha256
        self._family = family_of(pipeline)
        self._training = False
        parts = [(pipeline.text_encoder, pipeline.tokenizer)]
        if self._family == "sdxl":
            parts.append((pipeline.text_encoder_2, pipeline.tokenizer_2))
        names = ENCODER_NAMES[self._family]
        self._text_models = [model for model, _ in parts]
        self._encoders = [DiffusersTextEncoder(name, *part) for name, part in zip(names, parts, strict=True)]
        self._schedule = noise_schedule(pipeline.scheduler)
        self._masked: MaskedImage | None = None
        if is_inpainting(pipeline):
            self._masked = MaskedImage(self._encoded, self._vae.scale_factor)

    @cached_property
    def info(self) -> ModelInfo:
        """What is known about the checkpoint."""
        sample = self._unet.config.sample_size
        side = sample if isinstance(sample, int) else min(sample or [64])
        levels = len(self._unet.config.block_out_channels)
        return ModelInfo(
            name=self._name,
            family=self._family,
            sha256=self._sha256 or sha256_of_modules([self._unet, *self._text_models, self._vae.module]),
            resolution=side * self._vae.scale_factor,
            size_multiple=self._vae.scale_factor * 2 ** (levels - 1),
            vae_scale_factor=self._vae.scale_factor,
            latent_channels=int(self._vae.module.config.latent_channels),
        )

    @property
    def text_encoders(self) -> Sequence[DiffusersTextEncoder]:
        """One text encoder, or SDXL's two."""
        return self._encoders

    @property
    def schedule(self) -> NoiseSchedule:
        """The forward process of the pipeline's scheduler."""
        return self._schedule

    @property
    def device(self) -> torch.device:
        """The UNet's device."""
        # diffusers' own properties walk through the whole UNet at every call, which slows each step down
        device: torch.device = next(self._unet.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the UNet's weights."""
        dtype: torch.dtype = next(self._unet.parameters()).dtype
        return dtype

    def memory(self) -> MemoryStats:
        """Memory of the UNet and the text encoders; attention is computed as torch itself does it."""
        return memory_stats(
            self._unet,
            [self._unet, *self._text_models],
            self.device,
            vae_scale_factor=self._vae.scale_factor,
            keeps_scores=torch_attention_keeps_scores(self.device),
            vae=self._vae.memory(self.device),
        )

    @contextmanager
    def prepare_for_training(self, precision: Precision, *, checkpointing: bool = False) -> Iterator[None]:
        """Freeze all weights and hold them in ``precision``, cast once; restore everything on leaving."""
        wanted = DTYPES[precision]
        denoising = [self._unet, *self._text_models]
        with ExitStack() as stack:
            stack.enter_context(frozen([*denoising, self._vae.module]))
            stack.enter_context(gradient_checkpointing(self._unet, checkpointing))
            check_computes_in(self.device, wanted)
            stack.enter_context(held(denoising, all_in(wanted)))
            layout = ChannelsLast([self._unet] if channels_last_pays(self.device, wanted) else [])
            stack.callback(layout.restore)
            layout.enable()
            stack.callback(setattr, self, "_training", self._training)
            self._training = True
            yield

    def encode_images(self, images: torch.Tensor) -> LatentDistribution:
        """Encode ``(N, 3, S, S)`` images in [-1, 1] with the VAE, one at a time."""
        check_images(images, self._vae.scale_factor)
        encoded = list(self.encode_one_by_one(image[None] for image in images))
        return LatentDistribution(torch.cat([one.mean for one in encoded]), torch.cat([one.std for one in encoded]))

    def encode_one_by_one(self, images: Iterable[torch.Tensor]) -> Iterator[LatentDistribution]:
        """Encode ``(1, 3, S, S)`` images as they come; the VAE is moved, and made wider if it has to be, once for all."""
        yield from self._encoded(images) if self._masked is None else self._masked.encode_too(images)

    def _encoded(self, images: Iterable[torch.Tensor]) -> Iterator[LatentDistribution]:
        with self._vae.on_device(self.device):
            for image in images:
                check_images(image, self._vae.scale_factor)
                mean, std = self._vae.encode(image)
                yield LatentDistribution(mean.cpu(), std.cpu())

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode ``(N, C, h, w)`` scaled latents with the VAE, one at a time."""
        check_latents(latents)
        with self._vae.on_device(self.device):
            return torch.cat([self._vae.decode(latent[None]).float().cpu() for latent in latents])

    def release_vae(self) -> None:
        """Move the VAE to the CPU."""
        self._vae.release(self.device)

    def encode_prompts(self, prompts: Sequence[str], placeholder_tokens: PlaceholderTokens) -> Conditioning:
        """Encode prompts with the vectors of their placeholder tokens in place; differentiable in the vectors."""
        if not prompts:
            raise HostError("There are no prompts to encode: give at least one.")
        penultimate = self._family == "sdxl"
        states, pooled = [], None
        for which, (encoder, model) in enumerate(zip(self._encoders, self._text_models, strict=True)):
            of_encoder, of_pooled = encoder.encode(prompts, placeholder_tokens, which, penultimate=penultimate)
            states.append(of_encoder.to(self.device, model.dtype))
            pooled = of_pooled if pooled is None else pooled
        together = states[0] if len(states) == 1 else torch.cat(states, dim=-1).to(self._text_models[-1].dtype)
        return _Encoded(together, None if pooled is None else pooled.to(self.device))

    def predict(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """The UNet's output for ``(N, C, h, w)`` noisy latents: float32, same shape."""
        return self._call(latents, timesteps, conditioning)()

    def denoiser_call(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> TensorCall | None:
        """A call of the UNet alone; nothing moves its weights while it is trained through."""
        return self._call(latents, timesteps, conditioning)

    def _call(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> TensorCall:
        check_batch(latents, timesteps, len(conditioning.states))
        device, dtype = self.device, self.dtype
        given = latents if self._masked is None else torch.cat([latents, self._masked.like(latents)], dim=1)
        inputs = [given.to(device, dtype), timesteps.to(device), conditioning.states.to(dtype)]
        if conditioning.pooled is not None:
            inputs += [conditioning.pooled.to(dtype), self._time_ids(latents)]
        return TensorCall(self._denoise, tuple(inputs))

    def _denoise(
        self, latents: torch.Tensor, timesteps: torch.Tensor, states: torch.Tensor, *more: torch.Tensor
    ) -> torch.Tensor:
        added = dict(zip(("text_embeds", "time_ids"), more, strict=True)) if more else None
        output: torch.Tensor = self._unet(
            latents, timesteps, encoder_hidden_states=states, added_cond_kwargs=added, return_dict=False
        )[0]
        return output.float()

    def generate(self, request: GenerationRequest) -> Iterator[Image.Image]:
        """Generate by ``request.sampler``; ``ddim`` is diffusers' own, deterministic, as in the paper.

        The first latents are drawn on the CPU, so that a seed gives the same image on every device.
        """
        width, height = image_size(request, self.info, self._vae.scale_factor, self.schedule.timesteps)
        pipeline, refine = self._sampling_pipeline(), self._refinement(request)
        with torch.no_grad():
            encoded = self._generation_prompts(request)
            regions = self._encoded_regions(request)
        with ExitStack() as stack:
            if self._training:  # a preview: the next steps need the VAE's room
                stack.callback(self.release_vae)
            for number in range(request.count):
                generator = torch.Generator().manual_seed((request.seed + number) % 2**63)
                with torch.no_grad(), frozen([self._unet]), self._vae.on_device(self.device):
                    with regional(self._unet, regions, steps=request.steps, until=request.regions_until):
                        if request.sampler == "ddim":
                            if refine is not None:
                                pipeline.scheduler = sampler(self._pipeline.scheduler)
                                refine_steps(pipeline.scheduler, refine)
                            latents = self._through(
                                pipeline,
                                **encoded,
                                **self._first_latents(width, height, generator),
                                width=width,
                                height=height,
                                num_inference_steps=request.steps,
                                guidance_scale=request.guidance,
                                eta=0.0,
                                generator=generator,
                                output_type="latent",
                            ).images
                        else:
                            latents = self._sampled(request, encoded, (height, width), generator)
                    # The pipeline itself does not decode if the VAE is held in another precision than the UNet.
                    decoded = self._vae.decode(latents)
                image: Image.Image = pipeline.image_processor.postprocess(decoded, output_type="pil")[0]
                yield image.convert("RGB")

    def _sampled(
        self,
        request: GenerationRequest,
        encoded: dict[str, torch.Tensor],
        size: tuple[int, int],
        generator: torch.Generator,
    ) -> torch.Tensor:
        """The latents of one image by a sampler of :mod:`celeb_basis.sampling`.

        Args:
            request: Sampler, steps and guidance.
            encoded: From :meth:`_generation_prompts`.
            size: Height and width in pixels.
            generator: Draws the first latents.
        """
        guided = "negative_prompt_embeds" in encoded
        keys = ("negative_prompt_embeds", "prompt_embeds") if guided else ("prompt_embeds",)
        pooled = [encoded[key] for key in (one.replace("prompt", "pooled_prompt") for one in keys) if key in encoded]
        states = torch.cat([encoded[key] for key in keys])
        conditioning = _Encoded(states, torch.cat(pooled) if pooled else None)

        def denoise(latents: torch.Tensor, timestep: int) -> torch.Tensor:
            times = torch.full((len(keys),), timestep, device=latents.device)
            output = self.predict(latents.expand(len(keys), -1, -1, -1), times, conditioning)
            return output[:1] + request.guidance * (output[1:] - output[:1]) if guided else output

        shape = (1, self.info.latent_channels, *(side // self._vae.scale_factor for side in size))
        noise = torch.randn(shape, generator=generator).to(self.device)
        points = sampling_points(self.schedule, request.steps)
        refine = self._refinement(request)
        return sample(denoise, noise, points, self.schedule.prediction, request.sampler, refine=refine)

    def _refinement(self, request: GenerationRequest) -> Callable[[torch.Tensor, int], torch.Tensor] | None:
        if (refine := request.refine) is None:
            return None
        return lambda clean, step: refine(clean, step, request.steps, self._vae.decode_with_gradients)

    def _through(self, pipeline: Any, **arguments: Any) -> Any:
        """What a text-to-image pipeline makes; an inpainting denoiser is given beside its latents what it takes as well."""
        if (masked := self._masked) is None:
            return pipeline(**arguments)

        def join(_unet: Any, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            latents, *others = given
            return (torch.cat([latents, masked.like(latents)], dim=1), *others), named

        hook = self._unet.register_forward_pre_hook(join, with_kwargs=True)
        try:
            return pipeline(**arguments)
        finally:
            hook.remove()

    def _first_latents(self, width: int, height: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """For an inpainting model: diffusers would draw as many channels as its denoiser takes."""
        if self._masked is None:
            return {}
        factor = self._vae.scale_factor
        size = (1, self.info.latent_channels, height // factor, width // factor)
        return {"latents": torch.randn(size, generator=generator, dtype=self.dtype)}

    def _time_ids(self, latents: torch.Tensor) -> torch.Tensor:
        """SDXL's size conditioning ``(N, 6)``: original size, crop and target size of an image that was not cropped."""
        height, width = (side * self._vae.scale_factor for side in latents.shape[-2:])
        ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=self.dtype)
        return to_device(ids, self.device).expand(len(latents), -1)

    def _sampling_pipeline(self) -> Any:
        """A second pipeline over the same modules, with DDIM; the pipeline that was passed in is not changed."""
        parts = {**self._pipeline.components, "scheduler": sampler(self._pipeline.scheduler)}
        if self._family == "sdxl":
            parts["add_watermarker"] = False
        else:
            parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipeline = type(self._pipeline)(**parts)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _encode_weighted(self, prompt: str, placeholder_tokens: PlaceholderTokens) -> _Encoded:
        """Encode a prompt of any length with the weights of its words, as the WebUI does."""
        of_encoders = [encoder.chunks(prompt, placeholder_tokens, at) for at, encoder in enumerate(self._encoders)]
        longest = max(map(len, of_encoders))
        states, pooled = [], None
        for which, (encoder, chunks) in enumerate(zip(self._encoders, of_encoders, strict=True)):
            chunks += encoder.chunks("", {}, which) * (longest - len(chunks))
            of_encoder, of_pooled = encoder.encode_chunks(
                chunks, placeholder_tokens, which, penultimate=self._family == "sdxl"
            )
            states.append(of_encoder.to(self.device, self._text_models[which].dtype))
            pooled = of_pooled if pooled is None else pooled
        together = states[0] if len(states) == 1 else torch.cat(states, dim=-1).to(self._text_models[-1].dtype)
        return _Encoded(together, None if pooled is None else pooled.to(self.device))

    def _encoded_regions(self, request: GenerationRequest) -> list[EncodedRegion]:
        found = []
        for region in request.regions:
            encoded = self._encode_weighted(region.prompt, request.placeholder_tokens)
            found.append(EncodedRegion(region.box, encoded.states, encoded.pooled))
        return found

    def _generation_prompts(self, request: GenerationRequest) -> dict[str, torch.Tensor]:
        positive = self._encode_weighted(request.prompt, request.placeholder_tokens)
        arguments = {"prompt_embeds": positive.states, "pooled_prompt_embeds": positive.pooled}
        if request.guidance > 1.0:
            negative = self._encode_weighted(request.negative_prompt, request.placeholder_tokens)
            states, pooled = negative.states, negative.pooled
            if not request.negative_prompt and self._pipeline.config.get("force_zeros_for_empty_prompt", False):
                # SDXL was trained with zeros for an empty prompt
                states, pooled = torch.zeros_like(states), None if pooled is None else torch.zeros_like(pooled)
            arguments["prompt_embeds"], states = _equally_long(positive.states, states)
            arguments |= {"negative_prompt_embeds": states, "negative_pooled_prompt_embeds": pooled}
        return {key: value for key, value in arguments.items() if value is not None}


def _equally_long(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Repeat the states of two prompts until they are equally long, which changes nothing that attention computes."""
    length = math.lcm(first.shape[1], second.shape[1])
    return first.repeat(1, length // first.shape[1], 1), second.repeat(1, length // second.shape[1], 1)
