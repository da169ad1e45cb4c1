"""What a recipe may change of the paper's loop. Every part is neutral by default: nothing is then computed differently."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from celeb_basis.errors import SettingsError

Radius = Literal["unit", "celebrities"]


@dataclass(frozen=True)
class Recipe:
    """Parts of learning that are on trial; those that win move to the settings.

    Raises: :class:`SettingsError` at construction for a value out of its range.
    """

    radius: Radius = "unit"
    """Length of a row of coefficients: 1, or the celebrities' own root-mean-square length in each position."""
    earliest: float = 0.0
    """Timesteps are drawn from here on, as a share of the schedule."""
    latest: float = 1.0
    """Timesteps are drawn below this share of the schedule."""
    hair: float = 1.0
    """Weight of the loss on the hair, where the face's own is 1."""
    background: float = 1.0
    """Weight of the loss beyond face and hair."""

    def __post_init__(self) -> None:
        if self.radius not in ("unit", "celebrities"):
            raise SettingsError(f"radius is {self.radius!r}: choose unit or celebrities.")
        for item in fields(self)[1:]:
            value = getattr(self, item.name)
            if not isinstance(value, (int, float)) or not math.isfinite(value) or not 0 <= value <= 1:
                raise SettingsError(f"{item.name} is {value!r}: choose a number from 0 to 1.")
        if self.earliest >= self.latest:
            raise SettingsError(f"Timesteps from {self.earliest} to {self.latest} are none: raise latest.")

    @property
    def masked(self) -> bool:
        """Whether places of the picture weigh differently."""
        return self.hair != 1 or self.background != 1

    def timesteps(self, count: int) -> tuple[int, int]:
        """The lowest timestep and the one after the highest, of a schedule of ``count``."""
        low = min(math.floor(self.earliest * count), count - 1)
        return low, max(low + 1, math.ceil(self.latest * count))

    def as_dict(self) -> dict[str, Any]:
        """All parts as JSON-ready values."""
        return asdict(self)
