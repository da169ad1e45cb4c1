"""ComfyUI's MODEL, CLIP and VAE as a :class:`celeb_basis.diffusion_model.DiffusionModel`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from celeb_basis.diffusion_model import (
    DiffusionModel,
    LatentDistribution,
    MemoryStats,
    ModelInfo,
    NoiseSchedule,
    check_batch,
    image_size,
)
from celeb_basis.errors import HostError
from celeb_basis.hosts.comfyui.forward_passes import TrainingMode, compute_dtype
from celeb_basis.hosts.comfyui.model import ComfyModel, ComfyTextEncoder
from celeb_basis.hosts.comfyui.modules import comfy_module, memory_management, no_model_moves
from celeb_basis.hosts.comfyui.text import encode, names_as_vectors
from celeb_basis.hosts.torch_utils import (
    memory_stats,
    normal_tensor,
    preserved_random_state,
    torch_attention_keeps_scores,
)

if TYPE_CHECKING:
    from celeb_basis.diffusion_model import Conditioning, GenerationRequest, PlaceholderTokens, Precision


@dataclass(frozen=True)
class _Encoded:
    """What :meth:`ComfyHost.encode_prompts` returns for :meth:`ComfyHost.predict`."""

    states: torch.Tensor
    """``(N, 77 n, width)``."""
    pooled: torch.Tensor | None
    """``(N, P)`` for SDXL."""


class ComfyHost(DiffusionModel):
    """Stable Diffusion 1.x, 2.x or XL in ComfyUI, with the LoRAs and the noise schedule of the connected MODEL.

    ComfyUI runs nodes in torch's inference mode: leave it before training (:func:`torch.inference_mode` with ``False``).

    Args:
        model: The connected models. Their weights are never changed.
    """

    def __init__(self, model: ComfyModel) -> None:
        self._model = model
        self._training: TrainingMode | None = None

    @cached_property
    def info(self) -> ModelInfo:
        """Name, family, digest and image sizes."""
        model = self._model
        return ModelInfo(
            name=model.name,
            family=model.family,
            sha256=model.sha256,
            resolution=model.resolution,
            size_multiple=model.vae_scale_factor * 2 ** (len(model.unet.channel_mult) - 1),
        )

    @property
    def text_encoders(self) -> Sequence[ComfyTextEncoder]:
        """One or (SDXL) two."""
        return self._model.text.encoders

    @property
    def schedule(self) -> NoiseSchedule:
        """As the connected MODEL has it."""
        return self._model.schedule

    @property
    def device(self) -> torch.device:
        """Where ComfyUI computes the denoiser."""
        return self._model.device

    @property
    def dtype(self) -> torch.dtype:
        """What ComfyUI computes the denoiser in."""
        return self._model.dtype

    def memory(self) -> MemoryStats:
        """Memory of the denoiser and the text encoders; whatever else ComfyUI has loaded, it unloads for training."""
        model = self._model
        return memory_stats(
            model.unet,
            [model.unet, model.text.text_model],
            self.device,
            vae_scale_factor=model.vae_scale_factor,
            keeps_scores=torch_attention_keeps_scores(self.device),
        )

    @contextmanager
    def prepare_for_training(self, precision: Precision, *, checkpointing: bool = False) -> Iterator[None]:
        """Denoiser and text encoders loaded as a whole by ComfyUI, with their LoRAs, frozen, as normal tensors."""
        mode = TrainingMode(self._model, compute_dtype(precision, self.device), checkpointing=checkpointing)
        with ExitStack() as stack:
            stack.enter_context(preserved_random_state())
            stack.callback(mode.restore)
            mode.enable()
            stack.callback(setattr, self, "_training", self._training)
            self._training = mode
            yield

    def encode_images(self, pictures: torch.Tensor) -> LatentDistribution:
        """With the connected VAE."""
        return self._model.encode_images(pictures)

    def release_vae(self) -> None:
        """Have ComfyUI unload the VAE."""
        self._model.release_vae()

    def encode_prompts(self, prompts: Sequence[str], placeholder_tokens: PlaceholderTokens) -> Conditioning:
        """By ComfyUI's own code: its syntax, its chunks, its weights, its clip skip."""
        if not prompts:
            raise HostError("There are no prompts to encode: give at least one.")
        text, encoded = self._model.text, {}
        with self._computing(), names_as_vectors(text, placeholder_tokens) as rewrite:
            for prompt in dict.fromkeys(prompts):
                encoded[prompt] = encode(text, rewrite(prompt))
        parts = [encoded[prompt] for prompt in prompts]
        # Repeated states change nothing that attention computes.
        length = math.lcm(*(states.shape[1] for states, _ in parts))
        states = torch.cat([normal_tensor(states).repeat(1, length // states.shape[1], 1) for states, _ in parts])
        pooled = [normal_tensor(of_prompt) for _, of_prompt in parts if of_prompt is not None]
        return _Encoded(states, torch.cat(pooled) if self._model.family == "sdxl" else None)

    def predict(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """The denoiser's output, float32."""
        check_batch(latents, timesteps, len(conditioning.states))
        with self._computing() as dtype:
            device = self.device
            added: dict[str, Any] = {}
            if conditioning.pooled is not None:
                height, width = (side * self._model.vae_scale_factor for side in latents.shape[-2:])
                sizes = {"width": width, "height": height, "crop_w": 0, "crop_h": 0}
                vector = self._model.base.encode_adm(pooled_output=conditioning.pooled, **sizes)
                added["y"] = vector.to(device, dtype)
            output: torch.Tensor = self._model.unet(
                latents.to(device, dtype),
                timesteps.to(device).float(),
                context=conditioning.states.to(device, dtype),
                transformer_options={},
                **added,
            )
        return normal_tensor(output.float())

    def generate(self, request: GenerationRequest) -> Iterator[Image.Image]:
        """By ComfyUI's own sampling (DDIM), without nodes; ComfyUI's exception passes through if the user interrupts it."""
        model = self._model
        size = image_size(request, self.info, model.vae_scale_factor, self.schedule.timesteps)
        for number in range(request.count):
            with self._suspended(), preserved_random_state(), torch.inference_mode():
                image = self._sampled(request, (request.seed + number) % 2**63, size)
            yield image

    def _sampled(self, request: GenerationRequest, seed: int, size: tuple[int, int]) -> Image.Image:
        model, sampling = self._model, comfy_module("comfy.sample")
        conditionings = []
        with names_as_vectors(model.text, request.placeholder_tokens) as rewrite:
            for prompt in (request.prompt, request.negative_prompt):
                states, pooled = encode(model.text, rewrite(prompt))
                conditionings.append([[states, {"pooled_output": pooled}]])
        width, height = (side // model.vae_scale_factor for side in size)
        empty = torch.zeros(1, model.base.latent_format.latent_channels, height, width)
        noise = sampling.prepare_noise(empty, seed)
        positive, negative = conditionings
        latents = sampling.sample(
            model.patcher,
            noise,
            request.steps,
            request.guidance,
            "ddim",
            "ddim_uniform",
            positive,
            negative,
            empty,
            disable_pbar=True,
            seed=seed,
        )
        pixels = model.vae.decode(latents)[0].float().clamp(0, 1)
        return Image.fromarray((pixels.cpu().numpy() * 255).round().astype(np.uint8)).convert("RGB")

    @contextmanager
    def _computing(self) -> Iterator[torch.dtype]:
        """The model ready to compute; yields what its denoiser computes in.

        Outside of :meth:`prepare_for_training` nothing asks for gradients, so all is computed in inference mode, as by
        ComfyUI itself.
        """
        if self._training is not None:
            with no_model_moves():
                yield self._training.dtype
            return
        with torch.inference_mode():
            memory_management().load_models_gpu(self._model.patchers)
            with no_model_moves():
                yield self.dtype

    def _suspended(self) -> AbstractContextManager[None]:
        return _suspended(self._training)


@contextmanager
def _suspended(mode: TrainingMode | None) -> Iterator[None]:
    """While training: ComfyUI generates with its own tensors, and training goes on with what it then has loaded."""
    if mode is None:
        yield
        return
    mode.restore()
    try:
        yield
    finally:
        mode.enable()
