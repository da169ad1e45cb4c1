"""Building bases: the shipped list, the same from the cache, and a very long list."""

from __future__ import annotations

import math
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figures import Figure
from benchmarks.timing import seconds
from benchmarks.workbench import Workbench

if TYPE_CHECKING:
    import torch

    from celeb_basis.diffusion_model import TextEncoder
    from celeb_basis.names.lists import NameList

WORDS = "basis"
SLOW = False

_LONG = 100_000
_TOKEN_STD = 0.0139
"""Of the entries of CLIP-L's token embeddings."""


class _TableAlone:
    """What of a text encoder a basis needs: a random table of SD1's size, 49,408 x 768."""

    def __init__(self) -> None:
        import torch

        from celeb_basis.hosts.diffusers.configs import VOCABULARY_SIZE

        self._table = torch.nn.Embedding(VOCABULARY_SIZE, 768)
        torch.nn.init.normal_(self._table.weight, std=_TOKEN_STD, generator=torch.Generator().manual_seed(0))

    def get_input_embeddings(self) -> torch.nn.Module:
        return self._table


def table_encoder() -> TextEncoder:
    """The diffusers host's own text encoder with CLIP's real tokenizer and a random table."""
    from celeb_basis.hosts.diffusers.configs import clip_tokenizer
    from celeb_basis.hosts.diffusers.text import DiffusersTextEncoder

    return DiffusersTextEncoder("clip_l", _TableAlone(), clip_tokenizer())


def measure(bench: Workbench) -> Iterator[Figure]:  # noqa: ARG001
    """Tokenizing, filtering and decomposing together, as a user waits for them; reading the list is not in it."""
    from celeb_basis.basis import build_basis
    from celeb_basis.names.lists import shipped_names

    encoder, names = table_encoder(), shipped_names()
    table = f"{len(names.names):,} names of the shipped list, 49,408 x 768 table"
    with tempfile.TemporaryDirectory(prefix="celeb-basis-") as workshop:
        times = [seconds(partial(build_basis, encoder, names, cache=Path(workshop, str(i)))) for i in range(5)]
        yield Figure(f"basis of {table}", statistics.median(times), 2.0, "s", f"the first one {times[0]:.2f} s")
        times, hits = [], []
        for _ in range(9):
            started = time.perf_counter()
            hits.append(build_basis(encoder, names, cache=Path(workshop, "0")).from_cache)
            times.append(time.perf_counter() - started)
        yield Figure(
            f"basis of {table}, from the cache",
            1000 * statistics.median(times) if all(hits) else math.nan,
            50.0,
            "ms",
            f"{1000 * min(times):.1f} to {1000 * max(times):.1f} ms; tokenizing alone "
            f"{1000 * statistics.median(seconds(lambda: encoder.tokenize(names.names)) for _ in range(5)):.1f} ms",
        )
    long = long_list(names, _LONG)
    started = time.perf_counter()
    built = build_basis(encoder, long)
    taken = time.perf_counter() - started
    yield Figure(
        f"basis of {len(long.names):,} names, 49,408 x 768 table",
        taken,
        20.0,
        "s",
        f"{len(built.basis.names):,} names used",
    )


def long_list(names: NameList, count: int) -> NameList:
    """``count`` different names: first and last names of ``names`` in new combinations, every fifth with a number."""
    from celeb_basis.names.lists import name_list

    words = [name.split() for name in names.names]
    firsts = sorted({parts[0] for parts in words if len(parts) > 1})
    lasts = sorted({parts[-1] for parts in words if len(parts) > 1})
    draw = random.Random(0)
    made: dict[str, None] = {}
    while len(made) < count:
        name = f"{draw.choice(firsts)} {draw.choice(lasts)}"
        made[f"{name} {len(made)}" if len(made) % 5 == 0 else name] = None
    return name_list(made, f"{count:,} made-up names")
