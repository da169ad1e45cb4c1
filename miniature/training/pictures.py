"""Decoding of latents, and sheets of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from celeb_basis.faces.network import Pixels
from celeb_basis.files import atomic_path


def decode(model: Any, latents: Tensor, *, batch: int = 8) -> Pixels:
    """Decode raw latents ``(N, 4, 16, 16)`` to ``(N, 128, 128, 3)`` pictures."""
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
