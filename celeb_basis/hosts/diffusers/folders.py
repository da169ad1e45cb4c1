"""Weight files of a diffusers folder: which variant there is, and whether it is all there.

transformers fills what a file lacks with random numbers and goes on; a checkpoint that is only half copied must not.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from celeb_basis.errors import HostError

_WEIGHTS = re.compile(r"(?:diffusion_pytorch_model|model)(?:\.(?P<variant>\w+))?(?:-\d+-of-\d+)?\.safetensors")


def variant_of(path: Path) -> str | None:
    """Which weights to load: ``None`` for the plain ones, else ``"fp16"`` or what else there is.

    Raises: :class:`HostError` if the UNet has none.
    """
    variants = {match["variant"] for file in (path / "unet").glob("*") if (match := _WEIGHTS.fullmatch(file.name))}
    if not variants:
        raise HostError(f"{path} holds no .safetensors weights of a UNet: convert its weights to safetensors.")
    return next((name for name in (None, "fp16", "bf16") if name in variants), None) or min(
        variants - {None}, default=None
    )


def check_complete(pipeline: Any, path: Path, variant: str | None) -> None:
    """Raise :class:`HostError` if a component has more numbers in memory than in its files."""
    for component in ("unet", "vae", "text_encoder", "text_encoder_2"):
        module = getattr(pipeline, component, None)
        if module is None:
            continue
        files = [
            file
            for file in (path / component).glob("*")
            if (match := _WEIGHTS.fullmatch(file.name)) and match["variant"] in (variant, None)
        ]
        held = max(
            (_numbers([f for f in files if _variant(f) == kind]) for kind in {_variant(f) for f in files}), default=0
        )
        if held < sum(parameter.numel() for parameter in module.parameters()):
            raise HostError(f"The {component} in {path} is incomplete: copy the checkpoint again.")


def _variant(file: Path) -> str | None:
    match = _WEIGHTS.fullmatch(file.name)
    return match["variant"] if match else None


def _numbers(files: list[Path]) -> int:
    from safetensors import safe_open

    total = 0
    for file in files:
        with safe_open(str(file), framework="pt") as opened:
            total += sum(math.prod(opened.get_slice(key).get_shape()) for key in opened.keys())  # noqa: SIM118
    return total
