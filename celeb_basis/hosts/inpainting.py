"""What inpainting checkpoints take beside noisy latents, where a prompt alone says what is drawn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import torch

from celeb_basis.diffusion_model import LatentDistribution


class MaskedImage:
    """What an inpainting denoiser takes beside the noisy latents where the whole image is painted, as in text-to-image.

    It was trained to fill in what a mask covers: it takes the mask, and the latents of the image without what is covered.
    Programs that draw with it from a prompt alone cover everything: a mask of ones, and the latents of a gray image. The
    same is given to it while an identity is learned.

    Args:
        encode: Encodes ``(1, 3, H, W)`` images one by one, with the VAE on the device.
        scale_factor: Pixels along a side of an image for each place of its latent.
    """

    def __init__(
        self, encode: Callable[[Iterable[torch.Tensor]], Iterator[LatentDistribution]], scale_factor: int
    ) -> None:
        self._encode, self._scale_factor = encode, scale_factor
        self._known: dict[tuple[int, int], torch.Tensor] = {}

    def encode_too(self, images: Iterable[torch.Tensor]) -> Iterator[LatentDistribution]:
        """Encode images, and with the first of each size a gray one: later the VAE may not be on the device."""
        order: deque[tuple[int, int] | None] = deque()

        def with_gray() -> Iterator[torch.Tensor]:
            for image in images:
                height, width = (side // self._scale_factor for side in image.shape[-2:])
                if (height, width) not in self._known and (height, width) not in order:
                    order.append((height, width))
                    yield self._gray(height, width)
                order.append(None)
                yield image

        for encoded in self._encode(with_gray()):
            if (size := order.popleft()) is None:
                yield encoded
            else:
                self._known[size] = _all_masked(encoded)

    def like(self, latents: torch.Tensor) -> torch.Tensor:
        """``(N, 1 + C, h, w)`` for ``(N, C, h, w)`` noisy latents, on their device and in their dtype."""
        height, width = latents.shape[-2:]
        if (height, width) not in self._known:
            (encoded,) = self._encode([self._gray(height, width)])
            self._known[height, width] = _all_masked(encoded)
        # Kept where it was used last: a step is not to wait for a copy.
        placed = self._known[height, width] = self._known[height, width].to(latents)
        return placed.expand(len(latents), -1, -1, -1)

    def _gray(self, height: int, width: int) -> torch.Tensor:
        return torch.zeros(1, 3, height * self._scale_factor, width * self._scale_factor)


def _all_masked(encoded: LatentDistribution) -> torch.Tensor:
    latents = encoded.mean.float()
    return torch.cat([torch.ones_like(latents[:, :1]), latents], dim=1)
