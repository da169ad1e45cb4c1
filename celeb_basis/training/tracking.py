"""How training progresses: how far coefficients moved, how far out they are, and which names they are close to."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch

from celeb_basis.events import PersonProgress
from celeb_basis.method import Basis

WINDOW = 50
"""Steps over which the movement of the coefficients is measured."""

REPORT_EVERY = 10
"""Steps between two reports: often enough for a live page, seldom enough to cost nothing."""


class MovementTracker:
    """Snapshots of the averaged coefficients ``(P, G, E, K)`` at the reports, to measure how far they move."""

    def __init__(self) -> None:
        self.snapshots: deque[torch.Tensor] = deque(maxlen=WINDOW // REPORT_EVERY + 1)

    def take(self, averages: torch.Tensor) -> None:
        """Take a snapshot of the averages at a report."""
        self.snapshots.append(averages.clone())

    @property
    def full(self) -> bool:
        """Whether there are snapshots of a whole window."""
        return len(self.snapshots) == self.snapshots.maxlen

    def movement(self, person: int) -> float:
        """Distance from the oldest snapshot to the newest, relative to the newest's norm.

        While the window is not full yet, a person counts as moving: 1.
        """
        if not self.full:
            return 1.0
        new, old = self.snapshots[-1][person], self.snapshots[0][person]
        length = float(new.norm())
        return float((new - old).norm()) / length if length > 0 else 1.0


def distance_to_mean(bases: Sequence[Basis], coefficients: Sequence[torch.Tensor]) -> float:
    """Mean over the text encoders of :meth:`Basis.distance`."""
    return sum(b.distance(c) for b, c in zip(bases, coefficients, strict=True)) / len(bases)


class KnownNames:
    """The names of some bases, by how close coefficients are to theirs. What does not change is computed once."""

    def __init__(self, bases: Sequence[Basis]) -> None:
        """Prepare for coefficients in ``bases``, one per text encoder."""
        self.bases = tuple(bases)
        self._known = [basis.name_coefficients.reshape(len(basis.names), -1) for basis in self.bases]
        self._norms = [known.norm(dim=1) for known in self._known]

    def nearest(self, coefficients: Sequence[torch.Tensor], count: int) -> tuple[tuple[str, float], ...]:
        """Names by cosine in coefficient space, averaged over text encoders whose bases hold the same names.

        Args:
            coefficients: One ``(E, K)`` tensor per text encoder.
            count: How many names, the closest first.
        """
        names = self.bases[0].names
        alike = [index for index, basis in enumerate(self.bases) if basis.names == names]
        cosines = torch.stack([self._cosines(index, coefficients[index]) for index in alike]).mean(dim=0)
        best = cosines.topk(min(count, len(names)))
        return tuple((names[i], float(c)) for c, i in zip(best.values.tolist(), best.indices.tolist(), strict=True))

    def progress(self, coefficients: Sequence[torch.Tensor], movement: float) -> PersonProgress:
        """The report of one person; ``coefficients`` holds one ``(E, K)`` tensor per text encoder."""
        return PersonProgress(
            movement=movement,
            distance=distance_to_mean(self.bases, coefficients),
            nearest=self.nearest(coefficients, 5),
        )

    def _cosines(self, index: int, coefficients: torch.Tensor) -> torch.Tensor:
        """``(N,)`` cosines with the coefficients of every name, all positions taken as one vector."""
        wanted = coefficients.detach().to("cpu", torch.float32).reshape(-1)
        norms = self._norms[index] * wanted.norm()
        cosines: torch.Tensor = (self._known[index] @ wanted) / norms.clamp(min=torch.finfo(torch.float32).tiny)
        return cosines


def nearest_names(
    bases: Sequence[Basis], coefficients: Sequence[torch.Tensor], count: int
) -> tuple[tuple[str, float], ...]:
    """:meth:`KnownNames.nearest`, asked once."""
    return KnownNames(bases).nearest(coefficients, count)
