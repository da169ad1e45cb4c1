"""The checkpoint that reForge has loaded, as a :class:`celeb_basis.hosts.base.Host`."""

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
from celeb_basis.hosts.freezing import frozen
from celeb_basis.hosts.memory import memory_facts
from celeb_basis.hosts.memory_format import ChannelsLast
from celeb_basis.hosts.reforge import pictures as vae
from celeb_basis.hosts.reforge.model import (
    check_model,
    family_of,
    keeps_scores,
    noise_schedule,
    resolution_of,
    unet_of,
    weights_dtype,
)
from celeb_basis.hosts.reforge.placing import hold_on_device
from celeb_basis.hosts.reforge.quiet import Additions
from celeb_basis.hosts.requests import ENCODER_NAMES, check_batch, picture_size
from celeb_basis.hosts.webui import text
from celeb_basis.hosts.webui.checkpointing import checkpointed
from celeb_basis.hosts.webui.drawing import draw_one
from celeb_basis.hosts.webui.model import checkpoint_name, loaded_model, text_embedders, text_part
from celeb_basis.hosts.webui.precision import AS_THE_HOST, Computing, in_precision
from celeb_basis.hosts.webui.randomness import preserved_random_state
from celeb_basis.hosts.webui.shim import host_module

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from celeb_basis.hosts.base import Conditioning, GenerationRequest, Precision, Words


@dataclass(frozen=True)
class _Encoded:
    """What :meth:`ReForgeHost.encode_prompts` hands to :meth:`ReForgeHost.predict`."""

    crossattn: torch.Tensor
    """``(N, 77 n, width)``."""
    vector: torch.Tensor | None
    """``(N, P + S)`` for SDXL: the pooled text and the size of the checkpoint's own square pictures."""


@dataclass(frozen=True)
class _Learning:
    """What holds while learning."""

    model: weakref.ref[Any]
    additions: Additions
    computing: Computing
    layout: ChannelsLast


class ReForgeHost:
    """Stable Diffusion 1.x, 2.x or XL through the checkpoint that reForge has loaded; its weights are never copied.

    The model itself is looked up at every use and never kept. Once reForge has switched to another checkpoint, every use
    raises :class:`HostError`. The caller holds reForge's queue lock for as long as it works with this.

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
            text.WebUITextEncoder(name, partial(self._embedder, number))
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
    def text_encoders(self) -> Sequence[text.WebUITextEncoder]:
        return self._encoders

    @property
    def schedule(self) -> NoiseSchedule:
        return self._schedule

    @property
    def device(self) -> torch.device:
        device: torch.device = host_module("devices").device
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
            keeps_scores=keeps_scores(self.device),
        )

    @contextmanager
    def learning(self, precision: Precision, *, checkpointing: bool = False) -> Iterator[None]:
        model = self._model
        additions = Additions(model)
        with ExitStack() as stack:
            stack.enter_context(preserved_random_state())
            stack.callback(additions.put_back)
            additions.switch_off()
            hold_on_device(model)
            additions.hold_still()
            computing = stack.enter_context(in_precision(model, precision))
            stack.enter_context(frozen([model]))
            layout = ChannelsLast([unet_of(model)] if self.device.type == "cpu" else [])
            stack.callback(layout.put_back)
            layout.switch_on()
            stack.enter_context(checkpointed(model, checkpointing))
            stack.callback(setattr, self, "_learning", self._learning)
            self._learning = _Learning(weakref.ref(model), additions, computing, layout)
            yield

    def encode_pictures(self, pictures: torch.Tensor) -> LatentDistribution:
        return vae.encode_pictures(self._model, pictures)

    def release_picture_encoder(self) -> None:
        vae.send_vae_away(self._model)

    def encode_prompts(self, prompts: Sequence[str], words: Words) -> Conditioning:
        if not prompts:
            raise HostError("There are no prompts to encode: give at least one.")
        if host_module("shared").opts.use_old_emphasis_implementation:
            raise HostError('Switch off "Use old emphasis implementation" in reForge\'s settings to learn.')
        model = self._model
        side = self.info.resolution
        with self._computing.text(), text.words_in_place(model, words, self._names) as with_words:
            conditioning = text.encode(model, [with_words(prompt) for prompt in prompts], side, side)
        return _Encoded(conditioning["crossattn"], conditioning.get("vector"))

    def predict(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        check_batch(latents, timesteps, len(conditioning.crossattn))
        model = self._model
        if self._learning is None:
            hold_on_device(model)
            dtype = weights_dtype(model)
        else:  # the weights were made what they are to be computed in
            dtype = next(unet_of(model).parameters()).dtype
        given = {}
        if conditioning.vector is not None:
            given["y"] = self._vector(conditioning.vector, latents).to(self.device, dtype)
        with self._computing.denoiser():
            output: torch.Tensor = unet_of(model)(
                latents.to(self.device, dtype),
                timesteps.to(self.device).float(),
                context=conditioning.crossattn.to(self.device, dtype),
                transformer_options={},
                **given,
            )
        return output.float()

    def generate(self, request: GenerationRequest) -> Iterator[Image.Image]:
        """By reForge's own processing and DDIM, without its scripts; ends early if the user interrupts reForge."""
        width, height = picture_size(request, self.info, vae.pixels_of_latent(self._model), self.schedule.timesteps)
        for number in range(request.count):
            seed = (request.seed + number) % 2**32
            with text.words_in_place(self._model, request.words, self._names) as with_words, self._drawing():
                prompts = with_words(request.prompt), with_words(request.negative_prompt)
                nobody = host_module("scripts").ScriptRunner()
                picture = draw_one(self._model, request, prompts, seed, (width, height), scripts=nobody)
            if picture is None:
                return
            yield picture

    @property
    def _model(self) -> Any:
        """reForge's model as it is now, if it is still the same checkpoint."""
        model = loaded_model()
        exchanged = self._learning is not None and self._learning.model() is not model
        if exchanged or model.sd_checkpoint_info.filename != self._file:
            raise HostError(
                f"reForge has switched from {self._name} to {checkpoint_name(model)}: switch back, or start anew with the "
                "checkpoint that is loaded now."
            )
        return model

    @property
    def _names(self) -> Sequence[str]:
        return ENCODER_NAMES[self._family]

    def _embedder(self, number: int) -> Any:
        return text_embedders(self._model)[number]

    @property
    def _computing(self) -> Computing:
        return AS_THE_HOST if self._learning is None else self._learning.computing

    def _vector(self, vector: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """``vector`` for pictures of the latents' size instead of the checkpoint's own."""
        import torch

        pixel = vae.pixels_of_latent(self._model)
        height, width = (side * pixel for side in latents.shape[-2:])
        sizes = text.size_vector(self._model, len(latents), width, height)
        return torch.cat([vector[:, : -sizes.shape[1]], sizes.to(vector)], dim=1)

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """While learning: reForge draws with what it knows, and what that moved and switched on is undone afterwards."""
        if self._learning is not None:
            self._learning.layout.put_back()
            self._learning.additions.let_go()
        try:
            yield
        finally:
            if self._learning is not None and self._learning.model() is loaded_model():
                self._learning.additions.switch_off()
                hold_on_device(loaded_model())
                self._learning.additions.hold_still()
                self._learning.layout.switch_on()


if TYPE_CHECKING:
    from celeb_basis.hosts.base import Host

    _FITS: type[Host] = ReForgeHost  # the type checker's proof that the interface is met
