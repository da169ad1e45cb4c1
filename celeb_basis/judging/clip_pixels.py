"""CLIP's preparation of a picture, as its authors published it: for where transformers' own processor is missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL import Image


@dataclass(frozen=True)
class ClipPixels:
    """Shortest side scaled to ``side`` (bicubic), centre crop, scaled to 0 to 1, normalised."""

    side: int = 224
    crop: tuple[int, int] = (224, 224)
    """Height and width."""
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> ClipPixels:
        """Read a ``preprocessor_config.json``; sizes may be numbers (old files) or mappings (new ones).

        Raises: ``ValueError``, ``TypeError`` or ``KeyError`` for values of another form.
        """
        default = ClipPixels()
        size = config.get("size", default.side)
        crop = config.get("crop_size", default.crop[0])
        return ClipPixels(
            side=int(size["shortest_edge"] if isinstance(size, dict) else size),
            crop=(int(crop["height"]), int(crop["width"])) if isinstance(crop, dict) else (int(crop), int(crop)),
            mean=tuple(float(one) for one in config.get("image_mean", default.mean)),
            std=tuple(float(one) for one in config.get("image_std", default.std)),
        )

    def __call__(self, picture: Image.Image) -> npt.NDArray[np.float32]:
        """``(3, height, width)`` float32 of a picture of any size and mode."""
        from PIL import Image

        rgb = picture.convert("RGB")
        width, height = rgb.size
        # The longer side is rounded down, as in the original; the crop's corner too.
        if width <= height:
            scaled = (self.side, int(self.side * height / width))
        else:
            scaled = (int(self.side * width / height), self.side)
        rgb = rgb.resize(scaled, Image.Resampling.BICUBIC)
        left, top = (scaled[0] - self.crop[1]) // 2, (scaled[1] - self.crop[0]) // 2
        rgb = rgb.crop((left, top, left + self.crop[1], top + self.crop[0]))
        values = np.asarray(rgb, dtype=np.float32) / np.float32(255)
        normalised = (values - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(normalised.transpose(2, 0, 1))
