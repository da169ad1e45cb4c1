"""The checkpoint that a program of the family has loaded, as far as it is learned through in the same way in all of them."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from celeb_basis.diffusion_model import (
    ENCODER_NAMES,
    LatentDistribution,
    MemoryStats,
    ModelInfo,
    NoiseSchedule,
    check_batch,
    image_size,
)
from celeb_basis.errors import HostError
from celeb_basis.files import sha256_of_file
from celeb_basis.hosts.torch_utils import memory_stats

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from celeb_basis.diffusion_model import (
        Conditioning,
        GenerationRequest,
        LatentDistribution,
        NoiseSchedule,
        PlaceholderTokens,
        Precision,
    )


@dataclass(frozen=True)
class Encoded:
    """What :meth:`FamilyHost.encode_prompts` hands to :meth:`FamilyHost.predict`."""

    crossattn: torch.Tensor
    """``(N, 77 n, width)``."""
    vector: torch.Tensor | None
    """``(N, P + S)`` for SDXL: the pooled text and the size of the checkpoint's own square pictures."""


@dataclass(frozen=True)
class Learning(ABC):
    """What holds while learning. A preview meanwhile is drawn by the program in its own ways."""

    model: weakref.ref[Any]

    @abstractmethod
    def suspend(self) -> None:
        """Before a preview: the program gets back what its drawing must not meet otherwise."""

    @abstractmethod
    def resume(self, model: Any) -> None:
        """After a preview: undo what it moved and switched on."""


LearningT = TypeVar("LearningT", bound=Learning)


class FamilyHost(ABC, Generic[LearningT]):
    """Stable Diffusion 1.x, 2.x or XL through the checkpoint that a program has loaded; its weights are never copied.

    The model itself is looked up at every use and never kept. Once the program has switched to another checkpoint, every
    use raises :class:`HostError`. The caller holds the program's queue lock for as long as it works with this.

    Raises: :class:`HostError` if no checkpoint is loaded, or one that needs more than a prompt.
    """

    internals: ClassVar[Internals]

    def __init__(self) -> None:
        own = self.internals
        model = own.loaded_model()
        own.check_model(model)
        self._file = str(model.sd_checkpoint_info.filename)
        self._name = own.checkpoint_name(model)
        self._family = own.family_of(model)
        self._schedule = own.noise_schedule(model)
        self._encoders = [own.text_encoder(name, partial(self._embedder, i)) for i, name in enumerate(self._names)]
        self._learning: LearningT | None = None

    @cached_property
    def info(self) -> ModelInfo:
        model, own = self._model, self.internals
        levels = len(own.unet_of(model).channel_mult)
        return ModelInfo(
            name=self._name,
            family=self._family,
            sha256=model.sd_checkpoint_info.sha256 or sha256_of_file(Path(self._file)),
            resolution=own.resolution_of(model),
            size_multiple=own.vae_scale_factor_of(model) * 2 ** (levels - 1),
        )

    @property
    def text_encoders(self) -> Sequence[FamilyTextEncoder]:
        return self._encoders

    @property
    def schedule(self) -> NoiseSchedule:
        return self._schedule

    @property
    @abstractmethod
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype:
        return self.internals.weights_dtype(self._model)

    def memory(self) -> MemoryStats:
        model, own = self._model, self.internals
        return memory_stats(
            own.unet_of(model),
            [own.unet_of(model), own.text_part(model)],
            self.device,
            vae_scale_factor=own.vae_scale_factor_of(model),
            keeps_scores=own.keeps_scores(self.device),
        )

    @abstractmethod
    def prepare_for_training(
        self, precision: Precision, *, checkpointing: bool = False
    ) -> AbstractContextManager[None]: ...

    def encode_images(self, pictures: torch.Tensor) -> LatentDistribution:
        return self.internals.encode_images(self._model, pictures)

    def release_vae(self) -> None:
        self.internals.send_vae_away(self._model)

    def encode_prompts(self, prompts: Sequence[str], placeholder_tokens: PlaceholderTokens) -> Conditioning:
        if not prompts:
            raise HostError("There are no prompts to encode: give at least one.")
        own = self.internals
        with self._encoding(), own.words_in_place(self._model, placeholder_tokens, self._names) as with_words:
            side = self.info.resolution
            conditioning = own.encode(self._model, [with_words(prompt) for prompt in prompts], side, side)
        return Encoded(conditioning["crossattn"], conditioning.get("vector"))

    def predict(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        check_batch(latents, timesteps, len(conditioning.crossattn))
        return self._denoised(latents, timesteps, conditioning)

    def generate(self, request: GenerationRequest) -> Iterator[Image.Image]:
        """By the program's own processing and DDIM, without its scripts; ends early if the user interrupts it."""
        own = self.internals
        size = image_size(request, self.info, own.vae_scale_factor_of(self._model), self.schedule.timesteps)
        for number in range(request.count):
            seed = (request.seed + number) % 2**32
            with (
                own.words_in_place(self._model, request.placeholder_tokens, self._names) as with_words,
                self._drawing(),
            ):
                prompts = with_words(request.prompt), with_words(request.negative_prompt)
                picture = own.draw_one(request, prompts, seed, size)
            if picture is None:
                return
            yield picture

    @abstractmethod
    def _encoding(self) -> AbstractContextManager[Any]:
        """What prompts are encoded in.

        Raises: :class:`HostError` for settings of the program that people cannot be learned with.
        """

    @abstractmethod
    def _denoised(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Encoded) -> torch.Tensor:
        """The denoiser's output, float32."""

    @property
    def _model(self) -> Any:
        """The program's model as it is now, if it is still the same checkpoint."""
        own = self.internals
        model = own.loaded_model()
        exchanged = self._learning is not None and self._learning.model() is not model
        if exchanged or model.sd_checkpoint_info.filename != self._file:
            raise HostError(
                f"{own.program} has switched from {self._name} to {own.checkpoint_name(model)}: switch back, or start "
                "anew with the checkpoint that is loaded now."
            )
        return model

    @property
    def _names(self) -> Sequence[str]:
        return ENCODER_NAMES[self._family]

    def _embedder(self, number: int) -> Any:
        return self.internals.embedders(self._model)[number]

    def _vector(self, conditioning: Encoded, latents: torch.Tensor) -> torch.Tensor | None:
        """SDXL's ``vector`` for pictures of the latents' size instead of the checkpoint's own."""
        import torch

        vector, own = conditioning.vector, self.internals
        if vector is None:
            return None
        height, width = (side * own.vae_scale_factor_of(self._model) for side in latents.shape[-2:])
        sizes = own.size_vector(self._model, len(latents), width, height)
        return torch.cat([vector[:, : -sizes.shape[1]], sizes.to(vector)], dim=1)

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """While learning: the program draws in its own ways, and all is held again afterwards."""
        if self._learning is not None:
            self._learning.suspend()
        try:
            yield
        finally:
            held = None if self._learning is None else self._learning.model()
            if self._learning is not None and held is not None and held is self.internals.loaded_model_or_none():
                self._learning.resume(held)


# FOLDED: What a program of the family has to tell and to do for
# FOLDED: :class:`celeb_basis.hosts.a1111.family.FamilyHost`.


@dataclass(frozen=True)
class Internals:
    """One program's own functions. A ``model`` is its object for the loaded checkpoint, of whatever class."""

    program: str
    """As a sentence about it begins: ``"The WebUI"``."""
    loaded_model_or_none: Callable[[], Any | None]
    loaded_model: Callable[[], Any]
    """Raises :class:`HostError` if there is none."""
    check_model: Callable[[Any], None]
    """Raises :class:`HostError` unless the model denoises plain latents by its prompt alone."""
    checkpoint_name: Callable[[Any], str]
    family_of: Callable[[Any], str]
    """``"sd1"``, ``"sd2"`` or ``"sdxl"``."""
    resolution_of: Callable[[Any], int]
    """Side in pixels of the checkpoint's own square pictures."""
    noise_schedule: Callable[[Any], NoiseSchedule]
    unet_of: Callable[[Any], Any]
    text_part: Callable[[Any], Any]
    """The module that holds all text encoders."""
    weights_dtype: Callable[[Any], torch.dtype]
    """The denoiser's."""
    keeps_scores: Callable[[torch.device], bool]
    """Whether attention keeps its scores for the backward pass."""

    vae_scale_factor_of: Callable[[Any], int]
    """Side in pixels of what one place of a latent stands for."""
    encode_images: Callable[[Any, torch.Tensor], LatentDistribution]
    send_vae_away: Callable[[Any], None]

    embedders: Callable[[Any], Sequence[Any]]
    """The program's wrappers of the text encoders, in order."""
    text_encoder: Callable[[str, Callable[[], Any]], FamilyTextEncoder]
    """Of a lasting name and what looks the wrapper up."""
    words_in_place: Callable[[Any, PlaceholderTokens, Sequence[str]], AbstractContextManager[Callable[[str], str]]]
    """Yields what turns a prompt into one that the program, meanwhile, reads with every word as its vectors."""
    encode: Callable[[Any, Sequence[str], int, int], dict[str, torch.Tensor]]
    """Prompts for pictures of a width and a height: ``crossattn`` ``(N, 77 n, width)`` and, for SDXL, ``vector``."""
    size_vector: Callable[[Any, int, int, int], torch.Tensor]
    """The part of ``vector`` that tells a picture's width and height, that many times: ``(count, S)``."""

    draw_one: Callable[[GenerationRequest, tuple[str, str], int, tuple[int, int]], Image.Image | None]
    """One picture of both prompts, a seed and a size; ``None`` if the user interrupted the program."""


# FOLDED: A text encoder as the programs of the family wrap it.


class FamilyTextEncoder(ABC):
    """One of the loaded checkpoint's text encoders, looked up anew each time."""

    def __init__(self, name: str, embedder: Callable[[], Any]) -> None:
        self._name = name
        self._embedder = embedder

    @property
    def name(self) -> str:
        return self._name

    @property
    def width(self) -> int:
        return int(self.token_table().shape[1])

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(ids) for ids in self._embedder().tokenize(list(texts))] if texts else []

    @abstractmethod
    def token_table(self) -> torch.Tensor: ...


# FOLDED: Pictures into latents, one at a time, by whatever encoder a program has.


def means_and_stds(
    pictures: torch.Tensor,
    encode: Callable[[torch.Tensor], torch.Tensor],
    encode_in_float32: Callable[[torch.Tensor], torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the unscaled latents of ``(N, 3, H, W)`` pictures, each ``(N, C, h, w)`` float32 on the CPU.

    Parameters: ``encode`` gives the encoder's output ``(1, 2 C, h, w)`` for one picture, in the precision that the program
    holds the VAE in. Where that overflows, as SDXL's first VAE does, ``encode_in_float32`` is asked.
    """
    import torch

    means, stds = [], []
    for picture in pictures:
        mean, std = _mean_and_std(encode(picture[None]))
        if not bool(torch.isfinite(mean).all() and torch.isfinite(std).all()):
            mean, std = _mean_and_std(encode_in_float32(picture[None]))
        means.append(mean)
        stds.append(std)
    return torch.cat(means).cpu(), torch.cat(stds).cpu()


def _mean_and_std(output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean, log_variance = output.float().chunk(2, dim=1)
    return mean, (0.5 * log_variance.clamp(-30.0, 20.0)).exp()


# FOLDED: The denoiser as the forks with a Stable Diffusion of their own call it.


def through_unet(
    unet: Any,
    latents: torch.Tensor,
    timesteps: torch.Tensor,
    crossattn: torch.Tensor,
    vector: torch.Tensor | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor:
    """``unet``'s output in float32, computed in ``dtype``; ``vector`` is SDXL's."""
    output: torch.Tensor = unet(
        latents.to(device, dtype),
        timesteps.to(device).float(),
        context=crossattn.to(device, dtype),
        transformer_options={},
        **({} if vector is None else {"y": vector.to(device, dtype)}),
    )
    return output.float()
