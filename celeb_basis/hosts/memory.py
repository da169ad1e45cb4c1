"""What an adapter tells of memory: its denoiser's blocks, its weights, and what is free on its device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from celeb_basis.hosts.base import DenoiserBlock, MemoryFacts
from celeb_basis.hosts.devices import numbered

if TYPE_CHECKING:
    import torch

# The original code and diffusers, which name the same parts differently.
_WAYS = (("input_blocks", "middle_block", "output_blocks"), ("down_blocks", "mid_block", "up_blocks"))
_RESNETS = frozenset({"ResBlock", "ResnetBlock2D"})
_DOWN = frozenset({"Downsample", "Downsample2D"})
_UP = frozenset({"Upsample", "Upsample2D"})


def memory_facts(
    unet: Any, modules: Iterable[torch.nn.Module], device: torch.device, *, latent_pixel: int, keeps_scores: bool
) -> MemoryFacts:
    """Facts of a UNet of the original code or of diffusers.

    Parameters: ``modules`` are what learning computes with (denoiser and text encoders); ``latent_pixel`` is the side in
    pixels of what one place of a latent stands for; ``keeps_scores`` says whether attention keeps its scores for the
    backward pass.
    """
    held = elsewhere = 0
    for module in modules:
        for weight in module.parameters():
            size = weight.numel() * weight.element_size()
            held += size
            elsewhere += 0 if weight.device.type == device.type else size
    return MemoryFacts(denoiser_blocks(unet), latent_pixel, held, elsewhere, keeps_scores, free_memory(device))


def denoiser_blocks(unet: Any) -> tuple[DenoiserBlock, ...]:
    """The UNet's residual and transformer blocks in the order in which they compute."""
    names = next(names for names in _WAYS if hasattr(unet, names[0]))
    blocks = []
    scale = 1
    for part in (part for name in names for part in getattr(unet, name).modules()):
        kind = {cls.__name__ for cls in type(part).__mro__}
        if kind & _RESNETS:
            # ``channels`` is ldm's name for what comes in.
            before = getattr(part, "in_channels", None) or part.channels
            blocks.append(DenoiserBlock("resnet", scale, int(before), int(part.out_channels)))
        elif "BasicTransformerBlock" in kind:
            width = int(part.norm1.normalized_shape[0])
            blocks.append(DenoiserBlock("transformer", scale, width, width, int(part.attn1.heads)))
        elif kind & _DOWN:
            scale *= 2
        elif kind & _UP:
            scale //= 2
    return tuple(blocks)


def free_memory(device: torch.device) -> int | None:
    """Bytes that could still be taken on ``device``; ``None`` where nobody can tell."""
    import torch

    if device.type == "cuda":
        device = numbered(device)  # else torch 2.1 would not tell
        free, _ = torch.cuda.mem_get_info(device)
        # What torch holds in reserve is free for torch.
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        if not hasattr(torch.mps, "recommended_max_memory"):  # torch 2.1 lacks it
            return None
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    if device.type != "cpu":
        return None
    try:
        import psutil  # type: ignore[import-untyped]
    except ImportError:
        return None
    return int(psutil.virtual_memory().available)
