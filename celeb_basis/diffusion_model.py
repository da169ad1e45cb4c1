"""The one small interface between the core and whatever runs the diffusion model.

A host is an adapter: the WebUI, one of its forks, or diffusers. The core calls nothing of a host but what stands here,
and no type of a host's own crosses it, save the opaque :data:`Conditioning`, which the core only carries from
:meth:`Host.encode_prompts` to :meth:`Host.predict`.

Shapes: ``N`` pictures or prompts, ``S`` the side of a picture in pixels, ``C x h x w`` a latent, ``E`` token vectors
of a word, ``D`` the width of a text encoder's token embeddings, ``T`` the timesteps of the noise schedule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from celeb_basis.errors import HostError
from celeb_basis.method import NoiseSchedule as NoiseSchedule
from celeb_basis.method import Prediction as Prediction

if TYPE_CHECKING:
    import torch
    from PIL import Image


Precision = Literal["fp32", "bf16", "fp16"]

TokenVectors: TypeAlias = "Sequence[torch.Tensor]"
"""The vectors of one word: one ``(E, D_i)`` tensor a text encoder, in the order of :attr:`Host.text_encoders`."""

PlaceholderTokens: TypeAlias = "Mapping[str, TokenVectors]"
"""Words as they stand in a prompt (``"<person1>"``, brackets and all) and the vectors put in their place."""

Conditioning: TypeAlias = Any
"""A host's own encoded prompts; opaque to the core. Gradients flow through it back to the words' vectors."""


@dataclass(frozen=True)
class ModelInfo:
    """What is known of the loaded checkpoint."""

    name: str
    """The checkpoint's file or folder name, for people to read."""
    family: str
    """``"sd1"``, ``"sd2"`` or ``"sdxl"``: identities move between checkpoints of one family only."""
    sha256: str
    """Hex digest of the weights, so that an identity can say what it was learned on."""
    resolution: int
    """Side in pixels of the square pictures the checkpoint was made for."""
    size_multiple: int = 64
    """Sides of pictures must be multiples of this (VAE's times UNet's downscaling)."""


@dataclass(frozen=True)
class LatentDistribution:
    """What the VAE's encoder says of pictures, already multiplied by the VAE's scaling factor (and shifted, if it is)."""

    mean: torch.Tensor
    """``(N, C, h, w)`` float32 on the CPU."""
    std: torch.Tensor
    """``(N, C, h, w)`` float32 on the CPU."""


@dataclass(frozen=True)
class GenerationRequest:
    """Pictures to draw. ``words`` are put into ``prompt`` and ``negative_prompt`` alike."""

    prompt: str
    negative_prompt: str = ""
    placeholder_tokens: PlaceholderTokens = field(default_factory=dict)
    count: int = 1
    seed: int = 0
    """Picture ``i`` is drawn with ``seed + i``, alone, so that it does not depend on ``count``."""
    steps: int = 50
    guidance: float = 7.5
    width: int | None = None
    """Pixels; the checkpoint's own resolution if ``None``."""
    height: int | None = None


@dataclass(frozen=True)
class DenoiserBlock:
    """One block of the denoiser, as far as its memory goes."""

    kind: Literal["resnet", "transformer"]
    scale: int
    """How many places of the latent, along a side, one place of the block stands for: 1, 2, 4, ..."""
    channels_in: int
    channels: int
    heads: int = 0


@dataclass(frozen=True)
class MemoryStats:
    """What an estimate of learning's memory needs to know, as it is at that moment."""

    blocks: tuple[DenoiserBlock, ...]
    vae_scale_factor: int
    """Side in pixels of what one place of a latent stands for."""
    weights: int
    """Bytes of the denoiser's and the text encoders' weights, as they are held."""
    elsewhere: int
    """Bytes of those that are not on the device yet, and will be while learning."""
    keeps_scores: bool
    """Whether attention keeps its scores for the backward pass, which then grow with the fourth power of the side."""
    free: int | None
    """Bytes that could still be taken on the device; ``None`` where nobody can tell."""


class TextEncoder(Protocol):
    """One text encoder with its tokenizer."""

    @property
    def name(self) -> str:
        """Short lasting name, as exported files use it: ``"clip_l"``, ``"clip_g"``, ``"clip_h"``."""

    @property
    def width(self) -> int:
        """``D``: the width of a token embedding."""

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens, padding or truncation."""

    def token_table(self) -> torch.Tensor:
        """``(V, D)`` token embeddings: detached, on whatever device and in whatever dtype the host holds them."""


class DiffusionModel(Protocol):
    """A loaded checkpoint that can encode, denoise and draw. Frozen: nothing of it is ever trained or changed."""

    @property
    def info(self) -> ModelInfo: ...

    @property
    def text_encoders(self) -> Sequence[TextEncoder]:
        """SD1 and SD2 have one, SDXL two."""

    @property
    def schedule(self) -> NoiseSchedule: ...

    @property
    def device(self) -> torch.device:
        """Where latents, timesteps and words' vectors are to be put."""

    @property
    def dtype(self) -> torch.dtype:
        """What the denoiser's weights are held in."""

    def memory(self) -> MemoryStats:
        """What is known of the model's memory now. Quick; nothing is loaded or moved."""

    def prepare_for_training(
        self, precision: Precision, *, checkpointing: bool = False
    ) -> AbstractContextManager[None]:
        """Make the model ready for gradients to the words' vectors, and put everything back as it was on leaving.

        Inside, all weights are frozen (``requires_grad`` off), modules are in evaluation mode, and
        :meth:`encode_prompts` and :meth:`predict` compute in ``precision`` (autocast where the weights are wider).
        ``checkpointing`` trades time for memory in the denoiser.
        """

    def encode_images(self, pictures: torch.Tensor) -> LatentDistribution:
        """Encode ``(N, 3, S, S)`` float32 RGB pictures in [-1, 1] with the VAE, without gradients, one at a time."""

    def release_vae(self) -> None:
        """Take the VAE off the device, where that frees memory; :meth:`encode_images` brings it back."""

    def encode_prompts(self, prompts: Sequence[str], placeholder_tokens: PlaceholderTokens) -> Conditioning:
        """Encode prompts with every word of ``words`` replaced by its ``E`` vectors, and nothing else changed.

        The text around a word is tokenized as if the word were one plain word of its own. Differentiable in the vectors.
        A prompt too long for the text encoder is cut at its end, with a warning in the log.
        """

    def predict(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """The denoiser's output for ``(N, C, h, w)`` noisy latents at ``(N,)`` int64 timesteps: float32, same shape."""

    def generate(self, request: GenerationRequest) -> Iterator[Image.Image]:
        """Draw ``request.count`` RGB pictures, one after the other, without gradients. Repeatable for a seed."""


# FOLDED: What every adapter asks of what it is given, and the names that its text encoders have in files.

ENCODER_NAMES = {"sd1": ("clip_l",), "sd2": ("clip_h",), "sdxl": ("clip_l", "clip_g")}
"""The text encoders of each family, in order, as exported files name them."""


def check_batch(latents: torch.Tensor, timesteps: torch.Tensor, prompts: int) -> None:
    """Raises: :class:`HostError` unless there are as many timesteps and encoded prompts as latents."""
    if prompts != len(latents) or timesteps.shape != (len(latents),):
        raise HostError(
            f"{len(latents)} latents need as many timesteps and prompts, but there are "
            f"{tuple(timesteps.shape)} and {prompts}."
        )


def check_images(pictures: torch.Tensor, vae_scale_factor: int) -> None:
    """Raises: :class:`HostError` unless there are ``(N, 3, H, W)`` pictures with sides that the VAE can halve.

    Parameters: ``vae_scale_factor`` is the side in pixels of what one place of a latent stands for.
    """
    sides = pictures.shape[2:]
    if pictures.ndim != 4 or pictures.shape[1] != 3 or any(side % vae_scale_factor or not side for side in sides):
        raise HostError(
            f"Pictures of the shape {tuple(pictures.shape)} cannot be encoded: give (N, 3, S, S) with a side S that is a "
            f"multiple of {vae_scale_factor}."
        )
    if not len(pictures):
        raise HostError("There are no pictures to encode: give at least one.")


def image_size(request: GenerationRequest, info: ModelInfo, vae_scale_factor: int, timesteps: int) -> tuple[int, int]:
    """Width and height in pixels of the pictures asked for.

    Parameters: ``vae_scale_factor`` is the side in pixels of what one place of a latent stands for; ``timesteps`` is ``T``.

    Raises: :class:`HostError` for a size, a count or a number of steps that cannot be drawn.
    """
    width, height = (side or info.resolution for side in (request.width, request.height))
    if any(side < vae_scale_factor or side % vae_scale_factor for side in (width, height)):
        raise HostError(
            f"Pictures of {width}x{height} pixels cannot be drawn: choose multiples of {info.size_multiple}."
        )
    if not 1 <= request.steps <= timesteps or request.count < 0:
        raise HostError(
            f"{request.count} pictures in {request.steps} steps cannot be drawn: choose 1 to "
            f"{timesteps} steps and a count that is not negative."
        )
    return width, height


# FOLDED: Where words stand in a prompt: what every adapter must agree on.


def split_at_placeholders(prompt: str, words: Sequence[str]) -> list[str]:
    """Cut a prompt into the words and what stands between them; where words overlap, the longest one counts.

    Example:
        >>> split_at_placeholders("<a>, smiling", ["<a>"])
        ['<a>', ', smiling']
    """
    if not words:
        return [prompt] if prompt else []
    pattern = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return [piece for piece in re.split(f"({pattern})", prompt) if piece]


# FOLDED: The side in pixels of the square pictures that a checkpoint was made for.


def configured_resolution(config: Any) -> int | None:
    """``celeb_basis.resolution`` in the content of a checkpoint's config, as ``save_for_webui`` writes it."""
    try:
        return int(config["celeb_basis"]["resolution"]) or None
    except (ValueError, TypeError, KeyError):
        return None


def family_resolution(family: Literal["sd1", "sd2", "sdxl"], predicts_v: Callable[[], bool]) -> int:
    """What a family's checkpoints were made for. The config published with SD2's says the same for both of its kinds.

    Only of SD2 it is asked whether it ``predicts_v``: other models that a host has loaded, such as those of flow
    matching, may have no answer.
    """
    if family == "sdxl":
        return 1024
    return 768 if family == "sd2" and predicts_v() else 512
