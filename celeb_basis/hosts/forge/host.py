"""The checkpoint that Forge has loaded, as a :class:`celeb_basis.hosts.base.Host`."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import HostError
from celeb_basis.files import sha256_of_file
from celeb_basis.hosts.base import LatentDistribution, MemoryFacts, ModelInfo, NoiseSchedule
from celeb_basis.hosts.forge import pictures as vae
from celeb_basis.hosts.forge import text
from celeb_basis.hosts.forge.backward import right_backward
from celeb_basis.hosts.forge.drawing import draw_one
from celeb_basis.hosts.forge.model import (
    check_model,
    family_of,
    keeps_scores,
    loaded_model,
    loaded_model_or_none,
    noise_schedule,
    resolution_of,
    text_engines,
    text_part,
    unet_of,
    weights_dtype,
)
from celeb_basis.hosts.forge.precision import in_precision
from celeb_basis.hosts.forge.shim import backend_module, nothing_moves
from celeb_basis.hosts.forge.weights import OrdinaryWeights, ordinary
from celeb_basis.hosts.freezing import frozen
from celeb_basis.hosts.memory import memory_facts
from celeb_basis.hosts.requests import ENCODER_NAMES, check_batch, picture_size
from celeb_basis.hosts.webui.model import checkpoint_name
from celeb_basis.hosts.webui.randomness import preserved_random_state

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from celeb_basis.hosts.base import Conditioning, GenerationRequest, Precision, Words


@dataclass(frozen=True)
class _Encoded:
    """What :meth:`ForgeHost.encode_prompts` hands to :meth:`ForgeHost.predict`."""

    crossattn: torch.Tensor
    """``(N, 77 n, width)``."""
    vector: torch.Tensor | None
    """``(N, P + S)`` for SDXL: the pooled text and the size of the checkpoint's own square pictures."""


@dataclass(frozen=True)
class _Learning:
    """What holds while learning."""

    model: weakref.ref[Any]
    dtype: torch.dtype
    """What the denoiser computes in."""
    weights: OrdinaryWeights


class ForgeHost:
    """Stable Diffusion 1.x, 2.x or XL through the checkpoint that Forge has loaded; its weights are never copied.

    The model itself is looked up at every use and never kept. Once Forge has switched to another checkpoint, every use
    raises :class:`HostError`. The caller holds Forge's queue lock for as long as it works with this.

    Raises: :class:`HostError` if no checkpoint is loaded, or one that needs more than a prompt.
    """

    def __init__(self) -> None:
        model = loaded_model()
        check_model(model)
        self._file = str(model.sd_checkpoint_info.filename)
        self._name = checkpoint_name(model)
        self._family = family_of(model)
        self._schedule = noise_schedule(model)
        self._encoders = [
            text.ForgeTextEncoder(name, partial(self._engine, number))
            for number, name in enumerate(ENCODER_NAMES[self._family])
        ]
        self._learning: _Learning | None = None

    @cached_property
    def info(self) -> ModelInfo:
        model = self._model
        levels = len(unet_of(model).channel_mult)
        return ModelInfo(
            name=self._name,
            family=self._family,
            sha256=model.sd_checkpoint_info.sha256 or sha256_of_file(Path(self._file)),
            resolution=resolution_of(model),
            size_multiple=vae.pixels_of_latent(model) * 2 ** (levels - 1),
        )

    @property
    def text_encoders(self) -> Sequence[text.ForgeTextEncoder]:
        return self._encoders

    @property
    def schedule(self) -> NoiseSchedule:
        return self._schedule

    @property
    def device(self) -> torch.device:
        device: torch.device = backend_module("memory_management").get_torch_device()
        return device

    @property
    def dtype(self) -> torch.dtype:
        return weights_dtype(self._model)

    def memory(self) -> MemoryFacts:
        model = self._model
        return memory_facts(
            unet_of(model),
            [unet_of(model), text_part(model)],
            self.device,
            latent_pixel=vae.pixels_of_latent(model),
            keeps_scores=keeps_scores(),
        )

    @contextmanager
    def learning(self, precision: Precision, *, checkpointing: bool = False) -> Iterator[None]:
        model = self._model
        unet = unet_of(model)
        with ExitStack() as stack:
            stack.enter_context(preserved_random_state())
            dtype = stack.enter_context(in_precision(unet, precision, self.device))
            _hold_on_device(model)
            weights = OrdinaryWeights([unet, text_part(model)])
            stack.callback(weights.put_back)
            weights.switch_on()
            stack.enter_context(frozen([unet, text_part(model)]))
            stack.enter_context(right_backward(unet, checkpointing=checkpointing))
            stack.callback(setattr, self, "_learning", self._learning)
            self._learning = _Learning(weakref.ref(model), dtype, weights)
            yield

    def encode_pictures(self, pictures: torch.Tensor) -> LatentDistribution:
        return vae.encode_pictures(self._model, pictures)

    def release_picture_encoder(self) -> None:
        vae.send_vae_away(self._model)

    def encode_prompts(self, prompts: Sequence[str], words: Words) -> Conditioning:
        if not prompts:
            raise HostError("There are no prompts to encode: give at least one.")
        model = self._model
        side = self.info.resolution
        with ExitStack() as stack:
            self._ready(stack)
            with_words = stack.enter_context(text.words_in_place(model, words, self._names))
            conditioning = text.encode(model, [with_words(prompt) for prompt in prompts], side, side)
        vector = conditioning.get("vector")
        return _Encoded(ordinary(conditioning["crossattn"]), None if vector is None else ordinary(vector))

    def predict(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        check_batch(latents, timesteps, len(conditioning.crossattn))
        model = self._model
        with ExitStack() as stack:
            dtype = self._ready(stack)
            given = {}
            if conditioning.vector is not None:
                given["y"] = self._vector(conditioning.vector, latents).to(self.device, dtype)
            output: torch.Tensor = unet_of(model)(
                latents.to(self.device, dtype),
                timesteps.to(self.device).float(),
                context=conditioning.crossattn.to(self.device, dtype),
                transformer_options={},
                **given,
            )
        return ordinary(output.float())

    def generate(self, request: GenerationRequest) -> Iterator[Image.Image]:
        """By Forge's own processing and DDIM, without its scripts; ends early if the user interrupts Forge."""
        width, height = picture_size(request, self.info, vae.pixels_of_latent(self._model), self.schedule.timesteps)
        for number in range(request.count):
            seed = (request.seed + number) % 2**32
            with text.words_in_place(self._model, request.words, self._names) as with_words, self._drawing():
                prompts = with_words(request.prompt), with_words(request.negative_prompt)
                picture = draw_one(request, prompts, seed, (width, height))
            if picture is None:
                return
            yield picture

    @property
    def _model(self) -> Any:
        """Forge's model as it is now, if it is still the same checkpoint."""
        model = loaded_model()
        exchanged = self._learning is not None and self._learning.model() is not model
        if exchanged or model.sd_checkpoint_info.filename != self._file:
            raise HostError(
                f"Forge has switched from {self._name} to {checkpoint_name(model)}: switch back, or start anew with the "
                "checkpoint that is loaded now."
            )
        return model

    @property
    def _names(self) -> Sequence[str]:
        return ENCODER_NAMES[self._family]

    def _engine(self, number: int) -> Any:
        return text_engines(self._model)[number]

    def _ready(self, stack: ExitStack) -> torch.dtype:
        """The model on the device, ready to compute while ``stack`` lasts; and what its denoiser computes in.

        Outside of :meth:`learning` nothing asks for gradients, so all is computed in inference mode, as by Forge itself.
        """
        import torch

        if self._learning is None:
            _hold_on_device(self._model)
            stack.enter_context(torch.inference_mode())
            stack.enter_context(nothing_moves())
            dtype: torch.dtype = unet_of(self._model).computation_dtype
            return dtype
        stack.enter_context(nothing_moves())
        return self._learning.dtype

    def _vector(self, vector: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """``vector`` for pictures of the latents' size instead of the checkpoint's own."""
        import torch

        pixel = vae.pixels_of_latent(self._model)
        height, width = (side * pixel for side in latents.shape[-2:])
        sizes = text.size_vector(self._model, len(latents), width, height)
        return torch.cat([vector[:, : -sizes.shape[1]], sizes.to(vector)], dim=1)

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """While learning: Forge draws with its own weights, moves what it likes, and all is held again afterwards."""
        if self._learning is not None:
            self._learning.weights.put_back()
        try:
            yield
        finally:
            if self._learning is not None and self._learning.model() is loaded_model_or_none():
                _hold_on_device(loaded_model())
                self._learning.weights.switch_on()


def _hold_on_device(model: Any) -> None:
    """Bring text encoders and denoiser to the device, without the LoRAs of the last prompt; the next one brings its own.

    The patchers that Forge keeps as the original ones know of no LoRA: loading them takes what was merged into the weights
    out again.
    """
    import torch

    originals = model.forge_objects_original
    with torch.inference_mode():
        backend_module("memory_management").load_models_gpu([originals.unet, originals.clip.patcher])
        for engine in text_engines(model):
            # As Forge does before it encodes; here, so that it does not happen to what stands in for the weights.
            embeddings = engine.text_encoder.transformer.text_model.embeddings
            embeddings.position_embedding.to(torch.float32)
            embeddings.token_embedding.to(torch.float32)


if TYPE_CHECKING:
    from celeb_basis.hosts.base import Host

    _FITS: type[Host] = ForgeHost  # the type checker's proof that the interface is met
