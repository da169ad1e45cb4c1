"""How unlike a face in a latent is to a face vector, with gradients: decoder, alignment and recognition network in torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

# Where ArcFace's 112x112 crops have eyes, nose and corners of the mouth (pixel centres).
_TEMPLATE = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)
_SIDE = 112


def alignment(landmarks: torch.Tensor) -> torch.Tensor:
    """``(N, 2, 3)`` similarity transforms from crop pixels to the pixels of ``(N, 5, 2)`` landmarks.

    The least-squares similarity from the landmarks to the template in closed form (Umeyama 1991, no mirroring), inverted,
    which is how the crops that the network was trained on are made.
    """
    template = torch.tensor(_TEMPLATE, dtype=landmarks.dtype, device=landmarks.device)
    source, target = landmarks.mean(dim=1, keepdim=True), template.mean(dim=0)
    p, q = landmarks - source, template - target
    power = p.pow(2).sum(dim=(1, 2))
    a = (p * q).sum(dim=(1, 2)) / power
    b = (p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]).sum(dim=1) / power
    forward = torch.stack([torch.stack([a, -b], -1), torch.stack([b, a], -1)], dim=1)
    back = torch.linalg.inv(forward)
    shift = source[:, 0] - torch.einsum("nij,j->ni", back, target)
    return torch.cat([back, shift[..., None]], dim=2)


def aligned(pictures: torch.Tensor, landmarks: torch.Tensor) -> torch.Tensor:
    """``(N, 3, 112, 112)`` crops of ``(N, 3, H, W)`` pictures in -1 to 1, black outside; landmarks in pixels."""
    matrix = alignment(landmarks).to(pictures)
    ys, xs = torch.meshgrid(torch.arange(_SIDE), torch.arange(_SIDE), indexing="ij")
    ones = torch.ones(_SIDE, _SIDE)
    places = torch.stack([xs, ys, ones], dim=-1).to(pictures)
    pixels = torch.einsum("nij,hwj->nhwi", matrix, places)
    sides = torch.tensor([pictures.shape[-1], pictures.shape[-2]]).to(pictures)
    grid = (2 * pixels + 1) / sides - 1
    # Black is -1 and grid_sample's outside is 0: shifted there and back.
    return functional.grid_sample(pictures + 1, grid, padding_mode="zeros", align_corners=False) - 1


class FaceLoss:
    """1 minus the cosine between the face in a decoded latent and the wanted vector."""

    def __init__(
        self, decode: Callable[[torch.Tensor], torch.Tensor], network: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        """``decode``: scaled latents to pictures in -1 to 1; ``network``: crops to ``(N, 512)`` unit vectors."""
        self._decode, self._network = decode, network

    def __call__(self, latents: torch.Tensor, landmarks: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """``(N,)``. ``landmarks`` ``(N, 5, 2)`` are shares of the frame."""
        pictures = self._decode(latents)
        sides = torch.tensor([pictures.shape[-1], pictures.shape[-2]]).to(landmarks)
        vectors = self._network(aligned(pictures, landmarks * sides - 0.5))
        return 1 - (vectors * wanted.to(vectors)).sum(dim=1)
