"""The bias-corrected moving average of the coefficients: the only thing kept of an identity (paper section 4)."""

from __future__ import annotations

import torch


class MovingAverage:
    """Exponential moving average of ``P`` people's coefficients, each ``(G, E, K)``.

    The authors start theirs from random numbers, which leaves ``decay ** steps`` of that noise in the result; here it
    starts at zero and is divided by ``1 - decay ** updates``, so that the first value counts in full (Kingma and Ba 2015).
    """

    def __init__(self, people: int, shape: tuple[int, ...], decay: float) -> None:
        self.decay = decay
        self.sums = torch.zeros(people, *shape)
        self.updates = torch.zeros(people, dtype=torch.int64)

    def update(self, person: int, value: torch.Tensor) -> None:
        """Take in one value of a person's coefficients."""
        self.sums[person].mul_(self.decay).add_(value.detach().to("cpu", torch.float32), alpha=1.0 - self.decay)
        self.updates[person] += 1

    def value(self, person: int) -> torch.Tensor | None:
        """The person's averaged coefficients, or ``None`` before the first update."""
        updates = int(self.updates[person])
        return self.sums[person] / (1.0 - self.decay**updates) if updates else None
