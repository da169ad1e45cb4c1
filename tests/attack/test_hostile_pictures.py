"""Pictures made to hurt are opened or refused in words, each within bounded memory and time, in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.hostile_pictures import MEGABYTES, corpus

TESTS = Path(__file__).resolve().parents[1]
PYTHONS = [sys.executable, *filter(None, [os.environ.get("CELEB_BASIS_OTHER_PYTHON")])]
"""This interpreter, and another one with another Pillow if the variable names it."""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's account of memory")
@pytest.mark.parametrize("python", PYTHONS)
def test_every_hostile_picture_is_opened_or_refused_in_words(tmp_path: Path, python: str) -> None:
    for number, (name, data) in enumerate(corpus()):
        (tmp_path / f"{number:03d}-{name}").write_bytes(data)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) >= 300
    done = subprocess.run(
        [python, "-m", "support.hostile_pictures", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(TESTS.parent), str(TESTS)))},
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{names[len(rows)]} ended the process ({done.returncode}): {done.stderr[-500:]}"
    assert [name for name, _, _ in rows] == names
    wrong = [row for row in rows if row[1].startswith("raised") or row[2] > MEGABYTES]
    assert not wrong, wrong
    vague = [row for row in rows if row[1].startswith("refused") and not row[1].rstrip().endswith(".")]
    assert not vague, vague
