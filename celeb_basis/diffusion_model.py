"""The interface between the core and whatever runs the diffusion model, with the checks that all implementations share.

Each host (diffusers, AUTOMATIC1111's WebUI or one of its forks) implements :class:`DiffusionModel` for the checkpoint that
it has loaded. The core uses nothing else of a host, and no type of a host's own crosses this interface, except for the
opaque :data:`Conditioning`, which the core only passes from :meth:`DiffusionModel.encode_prompts` to
:meth:`DiffusionModel.predict`.

Shapes: ``N`` pictures or prompts, ``S`` the side of a picture in pixels, ``C x h x w`` a latent, ``E`` token vectors
of a placeholder token, ``D`` the width of a text encoder's token embeddings, ``T`` the timesteps of the noise schedule.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import torch
from PIL import Image

from celeb_basis.errors import HostError
from celeb_basis.method import NoiseSchedule as NoiseSchedule
from celeb_basis.method import Prediction as Prediction
from celeb_basis.regions import Region
from celeb_basis.sampling import Refinement, SamplerName

Precision = Literal["fp32", "bf16", "fp16"]

TokenVectors: TypeAlias = Sequence[torch.Tensor]
"""The vectors of one placeholder token: one ``(E, D_i)`` tensor per text encoder, in the model's order of encoders."""

PlaceholderTokens: TypeAlias = Mapping[str, TokenVectors]
"""Placeholder tokens as written in a prompt (``"<person1>"``, with the brackets) and the vectors that replace them."""

Conditioning: TypeAlias = Any
"""A host's own encoded prompts; opaque to the core. Gradients flow through it back to the token vectors."""


@dataclass(frozen=True)
class ModelInfo:
    """Description of the loaded checkpoint."""

    name: str
    """The checkpoint's file or folder name, for display."""
    family: str
    """``"sd1"``, ``"sd2"`` or ``"sdxl"``: identities can be used with checkpoints of one family only."""
    sha256: str
    """Hex digest of the weights, so that an identity can record what it was learned on."""
    resolution: int
    """Side in pixels of the square pictures the checkpoint was trained for."""
    size_multiple: int = 64
    """Sides of pictures must be multiples of this (the VAE's downscaling factor times the UNet's)."""
    vae_scale_factor: int = 8
    """Side in pixels of the patch that one latent position stands for."""
    latent_channels: int = 4
    """``C``."""


@dataclass(frozen=True)
class LatentDistribution:
    """The VAE's posterior for ``N`` pictures, after the VAE's scaling factor (and shift, if it has one) was applied."""

    mean: torch.Tensor
    """``(N, C, h, w)`` float32 on the CPU."""
    std: torch.Tensor
    """``(N, C, h, w)`` float32 on the CPU."""


@dataclass(frozen=True)
class GenerationRequest:
    """Pictures to generate."""

    prompt: str
    """Of any length. Words have weights as in the WebUI: ``(word:1.2)``, ``(word)``, ``[word]``, ``<person1:0.8>``."""
    negative_prompt: str = ""
    placeholder_tokens: PlaceholderTokens = field(default_factory=dict)
    """Replaced in ``prompt`` and ``negative_prompt`` alike."""
    count: int = 1
    seed: int = 0
    """Picture ``i`` is generated with ``seed + i`` in a batch of its own, so that it does not depend on ``count``."""
    steps: int = 50
    guidance: float = 7.5
    """Scale of classifier-free guidance."""
    sampler: SamplerName = "ddim"
    """The programs of users, with samplers of their own, know ``"ddim"`` alone."""
    width: int | None = None
    """Pixels; the checkpoint's own resolution if ``None``."""
    height: int | None = None
    """Pixels; the checkpoint's own resolution if ``None``."""
    regions: Sequence[Region] = ()
    """Parts of the picture with prompts of their own. Hosts inside of a user's program leave them out."""
    regions_until: float = 1.0
    """Share of the steps, from the first on, in which the regions act."""
    refine: Refinement | None = None
    """Changes the predicted clean latents of steps, as face guidance does. Hosts inside of a user's program leave it out."""


@dataclass(frozen=True)
class DenoiserBlock:
    """One block of the denoiser, as far as its memory use is concerned."""

    kind: Literal["resnet", "transformer"]
    scale: int
    """Downscaling of the block's feature maps with respect to the latent, along a side: 1, 2, 4, ..."""
    channels_in: int
    channels: int
    heads: int = 0


Casting = Literal["once", "autocast", "layers"]
"""How weights come to compute in another precision than the one they are stored in: all are cast once, before the first
step; once, for autocast, which computes norms in float32 and text encoders stay in it; or layer by layer, at each call."""


@dataclass(frozen=True)
class VaeMemory:
    """What encoding and decoding one image takes."""

    weights: int
    """Size in bytes of the VAE's weights as it computes with them."""
    elsewhere: int
    """Bytes of these that are not on the device yet."""
    per_pixel: float
    """Bytes that are alive at once for each pixel."""
    tile: int
    """Side in pixels of the largest area that is computed at once when memory is short; 0 if an image is never tiled."""


@dataclass(frozen=True)
class MemoryStats:
    """What an estimate of training's memory use has to know about a model, at the moment of the call."""

    blocks: tuple[DenoiserBlock, ...]
    vae_scale_factor: int
    """Side in pixels of the patch that one latent position stands for."""
    weights: int
    """Size in bytes of the denoiser's and the text encoders' weights in their current dtype."""
    offloaded: int
    """Bytes of these that are not on the device yet, but will be during training."""
    keeps_scores: bool
    """Whether attention stores its scores for the backward pass; they grow with the fourth power of the side."""
    free: int | None
    """Bytes that can still be allocated on the device; ``None`` if unknown."""
    denoiser: int = 0
    """Bytes of :attr:`weights` that are the denoiser's."""
    stored: torch.dtype | None = None
    """What the denoiser's weights are stored in; ``None`` if that is the model's dtype."""
    casting: Casting = "once"
    """How weights come to compute in another precision than :attr:`stored`."""
    vae: VaeMemory | None = None
    """``None`` if unknown."""


@dataclass(frozen=True)
class TensorCall:
    """A function of tensors alone: the same work on the device for all tensors of the same shapes and dtypes."""

    function: Callable[..., torch.Tensor]
    inputs: tuple[torch.Tensor, ...]

    def __call__(self) -> torch.Tensor:
        """The result."""
        return self.function(*self.inputs)


class TextEncoder(Protocol):
    """One text encoder with its tokenizer."""

    @property
    def name(self) -> str:
        """Short, stable name, as in exported files: ``"clip_l"``, ``"clip_g"``, ``"clip_h"``."""

    @property
    def width(self) -> int:
        """``D``, the width of a token embedding."""

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens, padding or truncation."""

    def token_table(self) -> torch.Tensor:
        """``(V, D)`` token embeddings: detached, on whatever device and in whatever dtype the host keeps them."""

    def weights(self) -> Iterator[torch.Tensor]:
        """All weights in the order of the model's own modules, on whatever device and in whatever dtype."""


class DiffusionModel(Protocol):
    """A loaded checkpoint that can encode, denoise and generate. It is frozen: nothing of it is ever trained or changed."""

    @property
    def info(self) -> ModelInfo:
        """Description of the checkpoint."""

    @property
    def text_encoders(self) -> Sequence[TextEncoder]:
        """One for SD1 and SD2, two for SDXL."""

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule and what the denoiser predicts."""

    @property
    def device(self) -> torch.device:
        """Where latents, timesteps and token vectors have to be."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the denoiser's weights."""

    def memory(self) -> MemoryStats:
        """Current facts about the model's memory. Fast; nothing is loaded or moved."""

    def prepare_for_training(
        self, precision: Precision, *, checkpointing: bool = False
    ) -> AbstractContextManager[None]:
        """Make the model ready for gradients with respect to token vectors, and restore everything on exit.

        Inside the context, all weights are frozen (``requires_grad`` off), modules are in evaluation mode, and
        :meth:`encode_prompts` and :meth:`predict` compute in ``precision``. Weights that are stored in another one are cast
        once, wherever the host's memory management allows it, and are bit for bit the same afterwards.

        Args:
            precision: Precision of the forward and backward pass.
            checkpointing: Whether to use gradient checkpointing in the denoiser: less memory, slower steps.
        """

    def encode_images(self, pictures: torch.Tensor) -> LatentDistribution:
        """Encode pictures with the VAE, without gradients, one at a time.

        Args:
            pictures: ``(N, 3, S, S)`` float32 RGB in [-1, 1].
        """

    def encode_one_by_one(self, pictures: Iterable[torch.Tensor]) -> Iterator[LatentDistribution]:
        """Encode pictures as they come; what the VAE needs for it is done once for all of them.

        Args:
            pictures: Each ``(1, 3, S, S)`` float32 RGB in [-1, 1].

        Yields:
            The posterior of each.
        """
        for picture in pictures:
            yield self.encode_images(picture)

    def release_vae(self) -> None:
        """Move the VAE off the device, if that frees memory; :meth:`encode_images` brings it back."""

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents with the VAE, without gradients, one at a time.

        As :meth:`encode_images`, it is not to be called inside :meth:`prepare_for_training`: the VAE may need the
        denoiser's room on the device.

        Args:
            latents: ``(N, C, h, w)``, scaled as those of :meth:`encode_images`.

        Returns:
            ``(N, 3, H, W)`` float32 RGB pictures in about [-1, 1], on the CPU.
        """

    def encode_prompts(self, prompts: Sequence[str], placeholder_tokens: PlaceholderTokens) -> Conditioning:
        """Encode prompts, with each placeholder token replaced by its ``E`` vectors and nothing else changed.

        The text around a placeholder token is tokenized as if the token were one plain word. Differentiable with respect
        to the vectors. A prompt that is too long for the text encoder is truncated at its end, with a warning in the log.
        """

    def predict(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """Run the denoiser.

        Args:
            latents: ``(N, C, h, w)`` noisy latents.
            timesteps: ``(N,)`` int64.
            conditioning: ``N`` encoded prompts.

        Returns:
            ``(N, C, h, w)`` float32: the predicted noise or velocity.
        """

    def denoiser_call(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> TensorCall | None:
        """What :meth:`predict` computes, in a form that may be recorded and replayed.

        ``None`` where that is impossible: where the host's code copies from main memory on the way, chooses its attention
        by what memory is free, or moves or exchanges weights between two calls.
        """
        del latents, timesteps, conditioning
        return None

    def generate(self, request: GenerationRequest) -> Iterator[Image.Image]:
        """Generate ``request.count`` RGB pictures one after the other, without gradients. Reproducible for a seed."""


# What every implementation has in common: the text encoders of each family, copies to the device, validation of requests,
# cutting prompts at placeholder tokens, and the resolution that a checkpoint was trained for.

ENCODER_NAMES = {"sd1": ("clip_l",), "sd2": ("clip_h",), "sdxl": ("clip_l", "clip_g")}
"""The text encoders of each family, in order, as exported files name them."""


def text_encoders_sha256(model: DiffusionModel) -> str:
    """Hex digest of the weights of all text encoders, which many checkpoints of a family have in common.

    It is that of the weights rounded to half precision: checkpoints are held in several.
    """
    digest = hashlib.sha256()
    for encoder in model.text_encoders:
        for weight in encoder.weights():
            digest.update(f"{tuple(weight.shape)}\n".encode())
            digest.update(weight.detach().to("cpu", torch.float16).contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_latents(latents: torch.Tensor) -> None:
    """Check that latents have the shape ``(N, C, h, w)``, with at least one.

    Raises:
        HostError: If they do not.
    """
    if latents.ndim != 4 or not len(latents):
        raise HostError(f"Latents of the shape {tuple(latents.shape)} cannot be decoded: give (N, C, h, w).")


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``tensor`` on ``device``; a graphics card is not waited for.

    A copy from ordinary memory to a card would wait until everything before it is computed. From page-locked memory it
    takes its place in the queue, and torch keeps that memory until it is through.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    try:
        return tensor.pin_memory().to(device, non_blocking=True)
    except RuntimeError:  # no page can be locked, as where a system allows few
        return tensor.to(device)


def check_batch(latents: torch.Tensor, timesteps: torch.Tensor, prompts: int) -> None:
    """Check that there are as many timesteps and encoded prompts as latents.

    Raises:
        HostError: If there are not.
    """
    if prompts != len(latents) or timesteps.shape != (len(latents),):
        raise HostError(
            f"{len(latents)} latents need as many timesteps and prompts, but there are "
            f"{tuple(timesteps.shape)} and {prompts}."
        )


def check_images(pictures: torch.Tensor, vae_scale_factor: int) -> None:
    """Check that pictures have the shape ``(N, 3, H, W)`` with sides that the VAE can downscale.

    Args:
        pictures: The pictures to encode.
        vae_scale_factor: Side in pixels of the patch that one latent position stands for.

    Raises:
        HostError: If they do not.
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
    """Width and height in pixels of the requested pictures.

    Args:
        request: The request to check.
        info: The checkpoint, for its resolution.
        vae_scale_factor: Side in pixels of the patch that one latent position stands for.
        timesteps: ``T``.

    Raises:
        HostError: For a size, a count or a number of steps that is not possible.
    """
    width, height = (side or info.resolution for side in (request.width, request.height))
    if any(side < vae_scale_factor or side % vae_scale_factor for side in (width, height)):
        raise HostError(
            f"Pictures of {width}x{height} pixels cannot be generated: choose multiples of {info.size_multiple}."
        )
    if not 1 <= request.steps <= timesteps or request.count < 0:
        raise HostError(
            f"{request.count} pictures in {request.steps} steps cannot be generated: choose 1 to "
            f"{timesteps} steps and a count that is not negative."
        )
    return width, height


def split_at_placeholders(prompt: str, tokens: Sequence[str]) -> list[str]:
    """Cut a prompt into its placeholder tokens and the text between them; of overlapping tokens, the longest one wins.

    Example:
        >>> split_at_placeholders("<a>, smiling", ["<a>"])
        ['<a>', ', smiling']
    """
    if not tokens:
        return [prompt] if prompt else []
    pattern = "|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True))
    return [piece for piece in re.split(f"({pattern})", prompt) if piece]


def configured_resolution(config: Any) -> int | None:
    """``celeb_basis.resolution`` in the content of a checkpoint's config, as ``save_for_webui`` writes it."""
    try:
        return int(config["celeb_basis"]["resolution"]) or None
    except (ValueError, TypeError, KeyError):
        return None


def family_resolution(family: Literal["sd1", "sd2", "sdxl"], predicts_v: Callable[[], bool]) -> int:
    """The resolution that a family's checkpoints were trained for, in pixels.

    Args:
        family: The checkpoint's family.
        predicts_v: Whether the model predicts the velocity; this alone distinguishes the two kinds of SD2, whose published
            configs are the same. It is called for SD2 only: other models that a host may have loaded, such as
            flow-matching ones, may have no answer.
    """
    if family == "sdxl":
        return 1024
    return 768 if family == "sd2" and predicts_v() else 512
