"""Making the pool of views: beyond the VAE's own encoding, a view should cost next to nothing."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from benchmarks.figures import Figure
from benchmarks.timing import seconds
from benchmarks.workbench import Workbench

WORDS = "pool"
SLOW = True

_VIEWS = 6


def measure(bench: Workbench) -> Iterator[Figure]:
    """Augmenting, encoding, aligning and embedding a view, beside the bare VAE on one picture."""
    import torch

    from celeb_basis.training.dataset import encode_views

    (side,) = bench.sides(256)
    vae, faces = bench.pipeline.vae, bench.faces
    picture = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def bare() -> None:
        with torch.no_grad():
            vae.encode(picture)

    bare()
    # What loads at the first use is not what a view costs.
    faces.embed([faces.align(bench.portrait(side).picture, bench.portrait(side).landmarks)])
    work = encode_views(
        bench.host,
        {"person": [bench.portrait(side)]},
        faces,
        views=1 + _VIEWS,
        smallest=0.1,
        generator=torch.Generator().manual_seed(side),
    )
    next(work)
    pairs = [(seconds(lambda: next(work)), seconds(bare)) for _ in range(_VIEWS)]
    # The face vectors of all views are made at the end, in one go.
    embedding = seconds(lambda: next(work, None)) / (1 + _VIEWS)
    ratio = statistics.median((ours + embedding) / other for ours, other in pairs)
    yield Figure(
        f"{bench.model}: a view of the pool, {faces.name} included / bare VAE encoding, {side}x{side}",
        ratio,
        1.1,
        "ratio",
        f"bare {statistics.median(other for _, other in pairs):.3f} s, embedding {embedding:.3f} s, {_VIEWS} pairs",
    )
