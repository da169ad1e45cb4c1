"""What a basis looks like from outside: for a table, a page or JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from celeb_basis.basis.build import BuiltBasis


@dataclass(frozen=True)
class BasisSummary:
    """An inspectable summary of one text encoder's basis."""

    encoder: str
    width: int
    components: int
    names_used: int
    names_dropped: int
    spread: tuple[float, ...]
    """The names' root-mean-square distance to the mean, for each token position."""
    explained: tuple[tuple[float, ...], ...]
    """For each token position, the share of the names' variance that each component explains, largest first."""
    report: dict[str, Any]
    """Which names were dropped and why."""
    sha256: str
    from_cache: bool

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return dict(self.__dict__)


def summarise(built: BuiltBasis) -> BasisSummary:
    """The summary of a basis and of the names it was made from."""
    basis = built.basis
    explained = basis.variance / basis.total_variance[:, None]
    return BasisSummary(
        encoder=basis.encoder,
        width=basis.width,
        components=basis.size,
        names_used=len(basis.names),
        names_dropped=len(built.filtered.dropped),
        spread=tuple(basis.spread.tolist()),
        explained=tuple(tuple(row) for row in explained.tolist()),
        report=built.filtered.report(),
        sha256=basis.sha256,
        from_cache=built.from_cache,
    )
