"""Where the face and the hair are in a latent, from five landmarks: weights for the loss."""

from __future__ import annotations

import torch

_FINE = 8
"""Samples along each side of a latent's place: a face of a tenth of the frame must not fall between places."""

# In units of the way from the eyes' middle to the mouth's (height) and of the eyes' distance (width).
_FACE = (0.4, 1.15, 1.45)
"""Centre below the eyes, half width, half height: ear to ear, chin to brow's upper end."""
_HEAD = (0.1, 1.6, 2.1)
"""The same with the hair."""


def face_weights(
    landmarks: torch.Tensor, height: int, width: int, *, hair: float = 1.0, background: float = 1.0
) -> torch.Tensor:
    """``(V, 1, height, width)`` weights: 1 on the face, ``hair`` around it, ``background`` beyond.

    Parameters: ``landmarks`` ``(V, 5, 2)`` x, y as shares of the frame: eyes, nose, corners of the mouth, as in
    :class:`~celeb_basis.faces.types.DetectedFace`. A place at an edge has the mean of what it covers.
    """
    y, x = torch.meshgrid(
        (torch.arange(height * _FINE) + 0.5) / (height * _FINE),
        (torch.arange(width * _FINE) + 0.5) / (width * _FINE),
        indexing="ij",
    )
    places = torch.stack([x, y], dim=-1)
    points = landmarks.float()
    eyes, mouth = points[:, :2].mean(dim=1), points[:, 3:].mean(dim=1)
    apart = (points[:, 1] - points[:, 0]).norm(dim=-1)
    down = mouth - eyes
    masks = []
    for centre, half_width, half_height in (_FACE, _HEAD):
        middle = eyes + centre * down
        masks.append(_oval(places, middle, down, half_width * apart, half_height * down.norm(dim=-1)))
    face, head = masks
    fine = torch.where(face, 1.0, torch.where(head, hair, background))
    return torch.nn.functional.avg_pool2d(fine[:, None], _FINE)


def _oval(
    places: torch.Tensor, middle: torch.Tensor, down: torch.Tensor, half_width: torch.Tensor, half_height: torch.Tensor
) -> torch.Tensor:
    """``(V, H, W)``: inside an ellipse whose long axis is ``down``."""
    axis = torch.nn.functional.normalize(down, dim=-1)
    way = places[None] - middle[:, None, None]
    along = torch.einsum("vhwc,vc->vhw", way, axis)
    across = way[..., 0] * axis[:, None, None, 1] - way[..., 1] * axis[:, None, None, 0]
    small = torch.finfo(torch.float32).tiny
    ratio = (along / half_height.clamp(min=small)[:, None, None]) ** 2
    return ratio + (across / half_width.clamp(min=small)[:, None, None]) ** 2 < 1
