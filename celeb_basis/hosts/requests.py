"""What every adapter asks of what it is given, and the names that its text encoders have in files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celeb_basis.errors import HostError

if TYPE_CHECKING:
    import torch

    from celeb_basis.hosts.base import GenerationRequest, ModelInfo

ENCODER_NAMES = {"sd1": ("clip_l",), "sd2": ("clip_h",), "sdxl": ("clip_l", "clip_g")}
"""The text encoders of each family, in order, as exported files name them."""


def check_batch(latents: torch.Tensor, timesteps: torch.Tensor, prompts: int) -> None:
    """Raises: :class:`HostError` unless there are as many timesteps and encoded prompts as latents."""
    if prompts != len(latents) or timesteps.shape != (len(latents),):
        raise HostError(
            f"{len(latents)} latents need as many timesteps and prompts, but there are "
            f"{tuple(timesteps.shape)} and {prompts}."
        )


def check_pictures(pictures: torch.Tensor, latent_pixel: int) -> None:
    """Raises: :class:`HostError` unless there are ``(N, 3, H, W)`` pictures with sides that the VAE can halve.

    Parameters: ``latent_pixel`` is the side in pixels of what one place of a latent stands for.
    """
    sides = pictures.shape[2:]
    if pictures.ndim != 4 or pictures.shape[1] != 3 or any(side % latent_pixel or not side for side in sides):
        raise HostError(
            f"Pictures of the shape {tuple(pictures.shape)} cannot be encoded: give (N, 3, S, S) with a side S that is a "
            f"multiple of {latent_pixel}."
        )
    if not len(pictures):
        raise HostError("There are no pictures to encode: give at least one.")


def picture_size(request: GenerationRequest, info: ModelInfo, latent_pixel: int, timesteps: int) -> tuple[int, int]:
    """Width and height in pixels of the pictures asked for.

    Parameters: ``latent_pixel`` is the side in pixels of what one place of a latent stands for; ``timesteps`` is ``T``.

    Raises: :class:`HostError` for a size, a count or a number of steps that cannot be drawn.
    """
    width, height = (side or info.resolution for side in (request.width, request.height))
    if any(side < latent_pixel or side % latent_pixel for side in (width, height)):
        raise HostError(
            f"Pictures of {width}x{height} pixels cannot be drawn: choose multiples of {info.size_multiple}."
        )
    if not 1 <= request.steps <= timesteps or request.count < 0:
        raise HostError(
            f"{request.count} pictures in {request.steps} steps cannot be drawn: choose 1 to "
            f"{timesteps} steps and a count that is not negative."
        )
    return width, height
