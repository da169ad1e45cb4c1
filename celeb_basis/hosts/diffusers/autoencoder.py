"""The VAE of a diffusers pipeline: encoding and decoding one image at a time, in whatever memory there is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from celeb_basis.diffusion_model import VaeMemory, to_device
from celeb_basis.hosts.diffusers.pipelines import gradient_checkpointing
from celeb_basis.hosts.torch_utils import (
    DECODED_MAPS,
    ENCODED_MAPS,
    VAE_ROOM,
    free_memory,
    frozen,
    upcast,
    vae_memory,
)

TILE = 512
"""Side in pixels of the tiles of an image that is too large for the free memory as a whole."""


class Autoencoder:
    """A VAE that computes on a device and lies in main memory when it is not needed.

    Args:
        vae: An ``AutoencoderKL``. Its weights are never changed.
    """

    def __init__(self, vae: Any) -> None:
        self.module = vae

    @property
    def scale_factor(self) -> int:
        """Side in pixels of the image area that one place of a latent stands for."""
        return int(2 ** (len(self.module.config.block_out_channels) - 1))

    @property
    def overflows(self) -> bool:
        """Whether half precision would overflow, as in SDXL's: it then computes in float32."""
        return self.module.dtype == torch.float16 and bool(getattr(self.module.config, "force_upcast", False))

    def memory(self, device: torch.device) -> VaeMemory:
        """What it takes to encode or decode on ``device``."""
        item_size = 4 if self.overflows else self.module.dtype.itemsize
        return vae_memory(self.module, self._widths, device, item_size=item_size, tile=TILE)

    @contextmanager
    def on_device(self, device: torch.device) -> Iterator[None]:
        """On ``device``, frozen, in the precision it computes in. It stays there until :meth:`release`."""
        self.module.to(device)
        wide = upcast([self.module], torch.float32) if self.overflows else nullcontext()
        with frozen([self.module]), wide:
            yield

    def encode(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode one image on the device, without gradients.

        Args:
            image: ``(1, 3, H, W)`` float32 in [-1, 1], on any device.

        Returns:
            Mean and standard deviation of the scaled latent, each ``(1, C, h, w)`` float32 on the VAE's device.
        """
        vae, config = self.module, self.module.config
        factor, shift = float(config.scaling_factor), float(getattr(config, "shift_factor", None) or 0.0)
        pixels = image.shape[-2] * image.shape[-1]
        with torch.no_grad(), self._tiled_if_short(ENCODED_MAPS * self._widths[0] * pixels):
            moments = vae.encode(to_device(image, vae.device).to(vae.dtype)).latent_dist
            return (moments.mean.float() - shift) * factor, moments.std.float() * factor

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode ``(N, C, h, w)`` scaled latents to ``(N, 3, H, W)`` images in [-1, 1], without gradients."""
        pixels = latents.shape[0] * latents.shape[-2] * latents.shape[-1] * self.scale_factor**2
        with torch.no_grad(), self._tiled_if_short(DECODED_MAPS * self._widths[1] * pixels):
            return self._decode(latents)

    def decode_with_gradients(self, latents: torch.Tensor) -> torch.Tensor:
        """What :meth:`decode` gives, differentiable; most of it is computed again on the way back, which saves memory."""
        with torch.enable_grad(), gradient_checkpointing(self.module, wanted=True):
            return self._decode(latents)

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        vae = self.module
        unscaled = latents.to(vae.device, vae.dtype) / vae.config.scaling_factor
        if shift := getattr(vae.config, "shift_factor", None):
            unscaled = unscaled + shift
        images: torch.Tensor = vae.decode(unscaled, return_dict=False)[0]
        return images

    def release(self, device: torch.device) -> None:
        """Move it from ``device`` to main memory."""
        if device.type != "cpu":
            self.module.to("cpu")
            if device.type == "cuda":
                torch.cuda.empty_cache()

    @property
    def _widths(self) -> tuple[int, int]:
        """Channels of the encoder's, and of the decoder's largest feature maps of full size."""
        widths = list(self.module.config.block_out_channels)
        return widths[0], widths[min(1, len(widths) - 1)]

    def _tiled_if_short(self, numbers: int) -> AbstractContextManager[None]:
        """Tiles if ``numbers`` numbers alive at once would take more than the free memory."""
        free = free_memory(self.module.device)
        if free is None or VAE_ROOM * numbers * self.module.dtype.itemsize <= free:
            return nullcontext()
        return self._tiled()

    @contextmanager
    def _tiled(self) -> Iterator[None]:
        """Images larger than :data:`TILE` are computed in tiles that overlap and are blended."""
        vae = self.module
        names = ("use_tiling", "tile_sample_min_size", "tile_latent_min_size")
        before = {name: getattr(vae, name) for name in names}
        values = (True, TILE, TILE // self.scale_factor)
        try:
            for name, value in zip(names, values, strict=True):
                setattr(vae, name, value)
            yield
        finally:
            for name, value in before.items():
                setattr(vae, name, value)
