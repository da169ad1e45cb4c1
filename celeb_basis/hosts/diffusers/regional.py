"""Regions with prompts of their own while an image is generated: a hook on the denoiser, whichever sampler calls it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from celeb_basis.regions import Box, acts, combined, region_weights


@dataclass(frozen=True)
class EncodedRegion:
    """A region whose prompt is encoded."""

    box: Box
    states: torch.Tensor
    """``(1, L, width)``."""
    pooled: torch.Tensor | None
    """``(1, P)`` for SDXL."""


@contextmanager
def regional(unet: Any, regions: Sequence[EncodedRegion], *, steps: int, until: float) -> Iterator[None]:
    """Add each region's prediction to the denoiser's output for the prompt, inside the context and for one image.

    The output has one row, or a row for the negative prompt before it. Each call counts as a step.

    Args:
        unet: A ``UNet2DConditionModel``.
        regions: The regions; the denoiser runs once more for each.
        steps: Calls of the denoiser.
        until: Share of the steps in which the regions act.
    """
    if not regions:
        yield
        return
    step = 0

    def add(module: Any, given: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
        nonlocal step
        step += 1
        if not acts(until, step - 1, steps):
            return output
        latents, times = given[:2]
        shared = output[0]
        predicted = [
            module.forward(latents[-1:], times if times.ndim == 0 else times[-1:], **_conditioned(named, region))[0]
            for region in regions
        ]
        weights = region_weights([one.box for one in regions], *shared.shape[-2:])
        return (torch.cat([shared[:-1], combined(shared[-1:], predicted, weights)]), *output[1:])

    hook = unet.register_forward_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def _conditioned(named: dict[str, Any], region: EncodedRegion) -> dict[str, Any]:
    """The denoiser's arguments with the region's prompt in place of the shared one."""
    arguments = {**named, "encoder_hidden_states": region.states.to(named["encoder_hidden_states"])}
    if (added := named.get("added_cond_kwargs")) and region.pooled is not None:
        others = {key: value[-1:] for key, value in added.items()}
        arguments["added_cond_kwargs"] = {**others, "text_embeds": region.pooled.to(added["text_embeds"])}
    return arguments
