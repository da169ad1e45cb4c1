"""Soft regions of an image at the size of its latents, and the combination of predictions that keeps people to them.

Inside each person's region acts a prediction of its own, that of the region's prompt, and elsewhere that of the shared
prompt. The predictions of noise, velocity or clean latents are combined before guidance, in which all three are linear.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

SOFTNESS = 0.125
"""Width of a region's soft border, as a share of the image's shorter side."""


@dataclass(frozen=True)
class Box:
    """A part of the image; its sides are shares of the image's width and height."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        """Share of the image's area; 0 if it is empty."""
        return max(0.0, self.right - self.left) * max(0.0, self.bottom - self.top)

    def within(self, other: Box) -> Box:
        """The part that lies in ``other``."""
        return Box(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        )

    def __str__(self) -> str:
        return " ".join(f"{side:g}" for side in (self.left, self.top, self.right, self.bottom))


@dataclass(frozen=True)
class Region:
    """A part of the image with a prompt of its own."""

    prompt: str
    box: Box


def region_mask(box: Box, height: int, width: int) -> torch.Tensor:
    """How far a region reaches: 1 inside, 0 outside, linear across its border, and no border at the image's edge.

    Args:
        box: The region.
        height: Rows of the latents.
        width: Columns of the latents.

    Returns:
        ``(height, width)`` float32 on the CPU.
    """
    soft = max(1.0, SOFTNESS * min(height, width))
    rows = _profile(box.top, box.bottom, height, soft)
    columns = _profile(box.left, box.right, width, soft)
    return rows[:, None] * columns[None, :]


def _profile(start: float, end: float, count: int, soft: float) -> torch.Tensor:
    at = torch.arange(count, dtype=torch.float32) + 0.5
    inside = torch.ones(count)
    if start > 0:
        inside = torch.minimum(inside, ((at - start * count) / soft + 0.5).clamp(0, 1))
    if end < 1:
        inside = torch.minimum(inside, ((end * count - at) / soft + 0.5).clamp(0, 1))
    return inside


def region_weights(boxes: Sequence[Box], height: int, width: int) -> torch.Tensor:
    """Shares of the regions' predictions at each position; what remains to 1 is that of the shared prompt.

    Args:
        boxes: ``R`` regions, which may overlap.
        height: Rows of the latents.
        width: Columns of the latents.

    Returns:
        ``(R, height, width)`` float32 on the CPU; their sum is at most 1.
    """
    masks = torch.stack([region_mask(one, height, width) for one in boxes])
    return masks / masks.sum(0, keepdim=True).clamp(min=1.0)


def combined(shared: torch.Tensor, of_regions: Sequence[torch.Tensor], weights: torch.Tensor) -> torch.Tensor:
    """Combine predictions.

    Args:
        shared: ``(N, C, h, w)``, the prediction of the shared prompt.
        of_regions: ``R`` predictions of that shape, those of the regions' prompts.
        weights: ``(R, h, w)``, from :func:`region_weights`.

    Returns:
        ``(N, C, h, w)``.
    """
    result = shared
    for prediction, weight in zip(of_regions, weights.to(shared), strict=True):
        result = result + weight * (prediction - shared)
    return result


def acts(until: float, step: int, steps: int) -> bool:
    """Whether regions that act until a share of ``steps`` do so in ``step``, counted from 0."""
    return step < until * steps
