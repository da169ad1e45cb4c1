"""Ways to keep people to their places, on top of any model that the evidence's sampler takes.

Both take the same regions, whose prompts name nobody but the region's person. They differ in where a region acts: on the
prediction of the denoiser, or in each of its cross-attention layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F

from celeb_basis.diffusion_model import Conditioning, DiffusionModel, PlaceholderTokens
from celeb_basis.prompts.places import Places, regions_of
from celeb_basis.regions import combined, region_weights

Way = Literal["without", "predictions", "attention"]
WAYS: tuple[Way, ...] = ("without", "predictions", "attention")


@dataclass(frozen=True)
class _Regional:
    """Encoded prompts with those of their regions."""

    shared: Conditioning
    regions: Sequence[Conditioning]
    weights: Sequence[torch.Tensor]
    """For each prompt ``(R, h, w)``."""

    def __len__(self) -> int:
        return len(self.shared)


class RegionalModel:
    """A model whose conditional predictions keep people to their places; everything else is the model's own.

    Args:
        model: The model.
        denoiser: Its denoiser's module, with cross-attention layers named ``attn2``.
        places: The places for each prompt that is encoded.
        way: How people are kept to them.
        size: Rows and columns of the latents.
    """

    def __init__(
        self, model: DiffusionModel, denoiser: Any, places: dict[str, Places], way: Way, size: tuple[int, int]
    ) -> None:
        self._model, self._denoiser, self._places, self._way, self._size = model, denoiser, places, way, size

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode_prompts(self, prompts: Sequence[str], placeholder_tokens: PlaceholderTokens) -> Conditioning:
        """The encoded prompts, with those of their regions where they have places."""
        shared = self._model.encode_prompts(prompts, placeholder_tokens)
        if self._way == "without" or not all(prompt in self._places for prompt in prompts):
            return shared
        regions = [regions_of(prompt, self._places[prompt]) for prompt in prompts]
        encoded = [
            self._model.encode_prompts([of_prompt[number].prompt for of_prompt in regions], placeholder_tokens)
            for number in range(len(regions[0]))
        ]
        weights = [region_weights([one.box for one in of_prompt], *self._size) for of_prompt in regions]
        return _Regional(shared, encoded, weights)

    def predict(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """The prediction, combined of the regions' where there are any."""
        if not isinstance(conditioning, _Regional):
            return self._model.predict(latents, timesteps, conditioning)
        weights = torch.stack(list(conditioning.weights))
        if self._way == "attention":
            with _attending(self._denoiser, [one.states for one in conditioning.regions], weights):
                return self._model.predict(latents, timesteps, conditioning.shared)
        shared = self._model.predict(latents, timesteps, conditioning.shared)
        predicted = [self._model.predict(latents, timesteps, one) for one in conditioning.regions]
        rows = [
            combined(shared[row : row + 1], [one[row : row + 1] for one in predicted], weights[row])
            for row in range(len(shared))
        ]
        return torch.cat(rows)


@contextmanager
def _attending(denoiser: Any, contexts: Sequence[torch.Tensor], weights: torch.Tensor) -> Iterator[None]:
    """Have every cross-attention layer attend to each region's prompt inside of it.

    Args:
        denoiser: The denoiser.
        contexts: For each region ``(N, L, width)``.
        weights: ``(N, R, h, w)``.
    """
    layers = [module for name, module in denoiser.named_modules() if name.endswith("attn2")]

    def attend(module: Any, given: tuple[Any, ...], named: dict[str, Any], output: torch.Tensor) -> torch.Tensor:
        positions = output.shape[1]
        factor = round(math.sqrt(weights.shape[-1] * weights.shape[-2] / positions))
        small = F.avg_pool2d(weights, factor).flatten(2)[..., None].to(output)
        result = output
        for number, context in enumerate(contexts):
            own = module.forward(*given, **{**named, "encoder_hidden_states": context.to(output)})
            result = result + small[:, number] * (own - output)
        return result

    hooks = [layer.register_forward_hook(attend, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
