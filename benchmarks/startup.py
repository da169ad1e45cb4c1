"""Importing the package, and building bases: the shipped list's, the same from the cache, and that of a very long list."""

from __future__ import annotations

import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from benchmarks.figures import Figure, seconds
from benchmarks.workbench import ROOT, Subject, Workbench
from celeb_basis.basis import build_basis
from celeb_basis.diffusion_model import TextEncoder
from celeb_basis.hosts.diffusers.configs import VOCABULARY_SIZE, clip_tokenizer
from celeb_basis.hosts.diffusers.text import DiffusersTextEncoder
from celeb_basis.names.lists import NameList, name_list, shipped_names

_IMPORTS = 9
_REPORT = (
    "import sys, time; t = time.perf_counter(); import celeb_basis; print(time.perf_counter() - t); print(*sys.modules)"
)
_LONG_LIST = 100_000
_TOKEN_STD = 0.0139
"""Standard deviation of the entries of CLIP-L's token embeddings."""


def measure_import(bench: Workbench) -> Iterator[Figure]:  # noqa: ARG001
    """The time of a Python process that only imports the package, and which modules it has loaded by then."""
    _run("import celeb_basis")
    times = [seconds(lambda: _run("import celeb_basis")) for _ in range(_IMPORTS)]
    statement, modules = _run(_REPORT).splitlines()
    yield Figure(
        "import celeb_basis, with Python's own start and end",
        1000 * statistics.median(times),
        100.0,
        "ms",
        f"the import statement alone {1000 * float(statement):.1f} ms",
    )
    loaded = modules.split()
    yield Figure(
        "torch loaded by import celeb_basis", float("torch" in loaded), 0.0, "yes/no", f"{len(loaded)} modules"
    )


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout


class _TokenTable:
    """The part of a text encoder that a basis needs: a random table of SD1's size, 49,408 x 768."""

    def __init__(self) -> None:
        self._table = torch.nn.Embedding(VOCABULARY_SIZE, 768)
        torch.nn.init.normal_(self._table.weight, std=_TOKEN_STD, generator=torch.Generator().manual_seed(0))

    def get_input_embeddings(self) -> torch.nn.Module:
        return self._table


def table_encoder() -> TextEncoder:
    """The diffusers host's own text encoder with CLIP's real tokenizer and a random token table."""
    return DiffusersTextEncoder("clip_l", _TokenTable(), clip_tokenizer())


def measure_basis(bench: Workbench) -> Iterator[Figure]:  # noqa: ARG001
    """Tokenizing, filtering and decomposing together, as a user waits for them, without reading the list."""
    encoder, names = table_encoder(), shipped_names()
    table = f"{len(names.names):,} names of the shipped list, 49,408 x 768 table"
    with tempfile.TemporaryDirectory(prefix="celeb-basis-") as folder:
        times = [seconds(partial(build_basis, encoder, names, cache=Path(folder, str(i)))) for i in range(5)]
        yield Figure(f"basis of {table}", statistics.median(times), 2.0, "s", f"the first one {times[0]:.2f} s")
        times, hits = [], []
        for _ in range(9):
            started = time.perf_counter()
            hits.append(build_basis(encoder, names, cache=Path(folder, "0")).from_cache)
            times.append(time.perf_counter() - started)
        yield Figure(
            f"basis of {table}, from the cache",
            1000 * statistics.median(times) if all(hits) else math.nan,
            50.0,
            "ms",
            f"{1000 * min(times):.1f} to {1000 * max(times):.1f} ms; tokenizing alone "
            f"{1000 * statistics.median(seconds(lambda: encoder.tokenize(names.names)) for _ in range(5)):.1f} ms",
        )
    long = long_list(names, _LONG_LIST)
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
    """``count`` distinct names: first and last names of ``names`` in new combinations, every fifth with a number."""
    words = [name.split() for name in names.names]
    firsts = sorted({parts[0] for parts in words if len(parts) > 1})
    lasts = sorted({parts[-1] for parts in words if len(parts) > 1})
    generator = random.Random(0)
    made: dict[str, None] = {}
    while len(made) < count:
        name = f"{generator.choice(firsts)} {generator.choice(lasts)}"
        made[f"{name} {len(made)}" if len(made) % 5 == 0 else name] = None
    return name_list(made, f"{count:,} made-up names")


SUBJECTS = (
    Subject("import", slow=False, measure=measure_import),
    Subject("basis", slow=False, measure=measure_basis),
)
