"""Where the coefficients stand: how far they moved, how far out they are, whom they are like."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch

from celeb_basis.basis.basis import Basis, name_cosines
from celeb_basis.learning.events import PersonProgress

WINDOW = 50
"""Steps over which movement is measured."""

REPORT_EVERY = 10
"""Steps between two reports: often enough for a live page, seldom enough to cost nothing."""


class MovementTracker:
    """Remembers averaged coefficients ``(P, G, E, K)`` at every report, to tell how far they moved over the window."""

    def __init__(self) -> None:
        self.snapshots: deque[torch.Tensor] = deque(maxlen=WINDOW // REPORT_EVERY + 1)

    def take(self, averages: torch.Tensor) -> None:
        """Remember where the averages are at a report."""
        self.snapshots.append(averages.clone())

    @property
    def full(self) -> bool:
        """Whether a whole window lies behind."""
        return len(self.snapshots) == self.snapshots.maxlen

    def movement(self, person: int) -> float:
        """Length of the way from the oldest snapshot to the newest, relative to the newest's own length.

        A person whose window is not full yet counts as moving: 1 at least.
        """
        if not self.full:
            return 1.0
        new, old = self.snapshots[-1][person], self.snapshots[0][person]
        length = float(new.norm())
        return float((new - old).norm()) / length if length > 0 else 1.0


def distance_to_mean(bases: Sequence[Basis], coefficients: Sequence[torch.Tensor]) -> float:
    """Mean over the text encoders of :meth:`Basis.distance`."""
    return sum(b.distance(c) for b, c in zip(bases, coefficients, strict=True)) / len(bases)


def nearest_names(
    bases: Sequence[Basis], coefficients: Sequence[torch.Tensor], count: int
) -> tuple[tuple[str, float], ...]:
    """Names by cosine in coefficient space, averaged over text encoders whose bases hold the same names."""
    first = bases[0]
    alike = [(b, c) for b, c in zip(bases, coefficients, strict=True) if b.names == first.names]
    cosines = torch.stack([name_cosines(b, c) for b, c in alike]).mean(dim=0)
    best = cosines.topk(min(count, len(first.names)))
    return tuple((first.names[i], float(c)) for c, i in zip(best.values.tolist(), best.indices.tolist(), strict=True))


def person_progress(bases: Sequence[Basis], coefficients: Sequence[torch.Tensor], movement: float) -> PersonProgress:
    """The report of one person; ``coefficients`` holds one ``(E, K)`` a text encoder."""
    return PersonProgress(
        movement=movement,
        distance=distance_to_mean(bases, coefficients),
        nearest=nearest_names(bases, coefficients, 5),
    )
