"""What a program of the family has to tell and to do for :class:`celeb_basis.hosts.webui_family.host.FamilyHost`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from celeb_basis.hosts.base import GenerationRequest, LatentDistribution, NoiseSchedule, Words
    from celeb_basis.hosts.webui_family.text import FamilyTextEncoder


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

    pixels_of_latent: Callable[[Any], int]
    """Side in pixels of what one place of a latent stands for."""
    encode_pictures: Callable[[Any, torch.Tensor], LatentDistribution]
    send_vae_away: Callable[[Any], None]

    embedders: Callable[[Any], Sequence[Any]]
    """The program's wrappers of the text encoders, in order."""
    text_encoder: Callable[[str, Callable[[], Any]], FamilyTextEncoder]
    """Of a lasting name and what looks the wrapper up."""
    words_in_place: Callable[[Any, Words, Sequence[str]], AbstractContextManager[Callable[[str], str]]]
    """Yields what turns a prompt into one that the program, meanwhile, reads with every word as its vectors."""
    encode: Callable[[Any, Sequence[str], int, int], dict[str, torch.Tensor]]
    """Prompts for pictures of a width and a height: ``crossattn`` ``(N, 77 n, width)`` and, for SDXL, ``vector``."""
    size_vector: Callable[[Any, int, int, int], torch.Tensor]
    """The part of ``vector`` that tells a picture's width and height, that many times: ``(count, S)``."""

    draw_one: Callable[[GenerationRequest, tuple[str, str], int, tuple[int, int]], Image.Image | None]
    """One picture of both prompts, a seed and a size; ``None`` if the user interrupted the program."""
