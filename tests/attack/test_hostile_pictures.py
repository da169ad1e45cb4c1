"""Pictures made to hurt are opened or refused in words, each within bounded memory and time, in a process of their own."""

from __future__ import annotations

import os
import sys
from itertools import islice
from pathlib import Path

import pytest
from support.bounded import MEGABYTES, SECONDS_OF_CPU, TESTS, rows_of, write_corpus
from support.hostile_pictures import corpus

PYTHONS = [sys.executable, *filter(None, [os.environ.get("CELEB_BASIS_OTHER_PYTHON")])]
"""This interpreter, and another one with another Pillow if the variable names it."""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's account of memory")
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("every", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_every_hostile_picture_is_opened_or_refused_in_words(tmp_path: Path, python: str, every: int) -> None:
    names = write_corpus(islice(corpus(), 0, None, every), tmp_path)
    assert len(names) >= 300 // every
    rows = rows_of("support.hostile_pictures", tmp_path, names, cwd=TESTS, python=python)
    wrong = [row for row in rows if row[1].startswith("raised")]
    assert not wrong, wrong
    heavy = [row for row in rows if row[2] > MEGABYTES or row[3] > SECONDS_OF_CPU]
    assert not heavy, heavy
    vague = [row for row in rows if row[1].startswith("refused") and not row[1].rstrip().endswith(".")]
    assert not vague, vague
