"""Pictures as latents and back, and sheets of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from celeb_basis.faces.network import Pixels
from celeb_basis.files import atomic_path


def encode(model: Any, pictures: Pixels, *, batch: int = 16, device: str = "cpu") -> Tensor:
    """Encode ``(N, H, W, 3)`` pictures to ``(N, 4, H / 8, W / 8)`` means of the autoencoder."""
    means = []
    with torch.no_grad():
        for start in range(0, len(pictures), batch):
            x = torch.from_numpy(pictures[start : start + batch]).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
            means.append(model.encode(x.contiguous(memory_format=torch.channels_last)).latent_dist.mean.float().cpu())
    return torch.cat(means)


def decode(model: Any, latents: Tensor, *, batch: int = 8) -> Pixels:
    """Decode raw latents ``(N, 4, h, w)`` to ``(N, 8 h, 8 w, 3)`` pictures."""
    pictures = []
    with torch.no_grad():
        for start in range(0, len(latents), batch):
            x = model.decode(
                latents[start : start + batch].contiguous(memory_format=torch.channels_last)
            ).sample.float()
            pictures.append(((x.permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255).byte().numpy())
    return np.concatenate(pictures)


def save_sheet(path: Path, pictures: Pixels, columns: int) -> None:
    """Write pictures side by side as one PNG. An incomplete last row is left out."""
    from PIL import Image

    rows = [np.concatenate(list(pictures[start : start + columns]), 1) for start in range(0, len(pictures), columns)]
    full = [row for row in rows if row.shape == rows[0].shape]
    with atomic_path(path) as temporary:
        Image.fromarray(np.concatenate(full, 0)).save(str(temporary), format="PNG")
