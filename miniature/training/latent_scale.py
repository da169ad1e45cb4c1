"""Standardization of latents to mean 0 and deviation 1 in every channel, as a diffusion model needs them."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from celeb_basis.files import write_json

SCALING_FACTOR = 0.18215
"""Stable Diffusion 1's own, which many tools take for granted."""


@dataclass(frozen=True)
class LatentScale:
    """Mean and standard deviation of each raw channel of the autoencoder."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def measured(cls, latents: Tensor) -> LatentScale:
        """Measure it on ``(N, 4, H, W)`` latents."""
        values = latents.float()
        return cls(tuple(values.mean((0, 2, 3)).tolist()), tuple(values.std((0, 2, 3)).tolist()))

    @classmethod
    def read(cls, path: Path) -> LatentScale:
        """Read a file that :meth:`write` wrote."""
        stored = json.loads(path.read_text(encoding="utf-8"))
        return cls(tuple(stored["mean"]), tuple(stored["std"]))

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(path, {"mean": list(self.mean), "std": list(self.std)})

    def standardized(self, latents: Tensor) -> Tensor:
        """Convert raw latents to those of the denoiser."""
        mean, std = self._on(latents.device)
        return (latents.float() - mean) / std

    def raw(self, latents: Tensor) -> Tensor:
        """Convert latents of the denoiser to those of the decoder."""
        mean, std = self._on(latents.device)
        return latents * std + mean

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (self.mean, self.std))
        return mean, std

    @torch.no_grad()
    def built_in(self, model: Any) -> Any:
        """A copy of the autoencoder whose latents times :data:`SCALING_FACTOR` are standardized."""
        model = copy.deepcopy(model)
        mean, std = torch.tensor(self.mean), torch.tensor(self.std) * SCALING_FACTOR
        channels = len(mean)
        into, out = model.quant_conv, model.post_quant_conv
        into.bias[:channels] = (into.bias[:channels] - mean) / std
        into.weight[:channels] /= std[:, None, None, None]
        into.bias[channels:] -= 2 * std.log()
        out.bias += (out.weight[:, :, 0, 0] * mean).sum(1)
        out.weight *= std[None, :, None, None]
        model.register_to_config(scaling_factor=SCALING_FACTOR)
        return model
