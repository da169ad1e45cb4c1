"""Another process that is running a run, as far as its lock says, and a fixture that starts such processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys
from pathlib import Path
from celeb_basis.training.run_lock import running
with running(Path(sys.argv[1]), "ada"):
    print("held", flush=True)
    sys.stdin.read()
"""


class Other:
    """Another process that holds the lock of a run."""

    def __init__(self, state: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(state)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"

    def end(self) -> None:
        self.process.communicate(timeout=60)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)


@pytest.fixture
def other() -> Iterator[Callable[[Path], Other]]:
    started: list[Other] = []

    def start(state: Path) -> Other:
        started.append(Other(state))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        for stream in (one.process.stdin, one.process.stdout):
            if stream is not None:
                stream.close()
