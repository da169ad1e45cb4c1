"""What is wrapped around Forge's denoiser: face guidance, and masks for people where Forge makes the areas of parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from celeb_basis.hosts.a1111.model import Decode
from celeb_basis.hosts.a1111.modules import host_module, replaced
from celeb_basis.hosts.a1111.sampler_hooks import MaskedWeight, SamplerHooks
from celeb_basis.hosts.forge.model import ForgeCheckpoint
from celeb_basis.hosts.forge.modules import forge_module, silent_text_engines


class ForgeSamplerHooks(SamplerHooks):
    """As in the WebUI; Forge averages the parts' predictions by their masks, and scales the mean by the sum of weights."""

    def wrapped(self) -> list[tuple[Any, str, Callable[..., Any]]]:
        """The WebUI's functions, and the one that makes a part's area and mask."""
        return [
            *super().wrapped(),
            (forge_module("backend.sampling.sampling_function"), "get_area_and_mult", self._area),
        ]

    @contextmanager
    def encoding(self) -> Iterator[None]:
        """Forge's text engines keep what goes into the parameters, and then its model does."""
        model = host_module("shared").sd_model
        kept = dict(getattr(model, "extra_generation_params", {}))
        with silent_text_engines(), replaced(model, extra_generation_params=kept):
            yield

    def decoder(self, latents: torch.Tensor) -> AbstractContextManager[Decode]:
        """By Forge's own VAE."""
        return ForgeCheckpoint.current().decoding_with_gradients(latents)

    def _area(self, original: Any, conds: Any, x_in: Any, *more: Any, **named: Any) -> Any:
        if isinstance(weight := conds.get("strength"), MaskedWeight):
            conds = {**conds, "mask": weight.mask.to(x_in)}
        return original(conds, x_in, *more, **named)
