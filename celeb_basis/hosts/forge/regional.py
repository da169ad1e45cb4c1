"""Places of people in Forge's samplers: the parts of a composed prompt get masks where Forge makes their areas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from celeb_basis.hosts.a1111 import regional
from celeb_basis.hosts.a1111.modules import host_module, replaced
from celeb_basis.hosts.a1111.regional import MaskedWeight, RegionalSampling
from celeb_basis.hosts.forge.modules import forge_module, silent_text_engines
from celeb_basis.prompts.places import Places


class ForgeRegionalSampling(RegionalSampling):
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

    def _area(self, original: Any, conds: Any, x_in: Any, *more: Any, **named: Any) -> Any:
        if isinstance(weight := conds.get("strength"), MaskedWeight):
            conds = {**conds, "mask": weight.mask.to(x_in)}
        return original(conds, x_in, *more, **named)


def use_places(processing: Any, places: Places | None) -> None:
    """As :func:`celeb_basis.hosts.a1111.regional.use_places`."""
    if places is not None:
        regional.install(ForgeRegionalSampling)
    regional.set_places(processing, places)
