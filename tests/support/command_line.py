"""The command line run in this process on the miniature, and a person learned in a moment."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from celeb_basis.cli.main import main
from celeb_basis.miniature import PHOTOS

PHOTO = PHOTOS / "stranger1.png"
OTHER_PHOTO = PHOTOS / "stranger2.png"
MOMENT = ("--steps", 2, "--views", 3, "--batch-size", 1, "--no-early-stop", "--no-likeness")
"""Options of a learning run that takes a moment."""


@dataclass(frozen=True)
class Said:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be one JSON value and nothing else."""
        return json.loads(self.out)


def run(*arguments: object) -> Said:
    """Run a command."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Said(code, out.getvalue(), err.getvalue())


@contextmanager
def own_folders(folder: Path) -> Iterator[None]:
    """A library and a cache in ``folder``, and no face networks but those that ship."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELEB_BASIS_LIBRARY", str(folder / "library"))
        patch.setenv("CELEB_BASIS_CACHE", str(folder / "cache"))
        patch.delenv("CELEB_BASIS_FACES", raising=False)
        patch.chdir(folder)
        yield


def learn(name: str, photo: Path = PHOTO) -> Said:
    """Learn a person on the miniature."""
    return run("learn", photo, "--name", name, "--model", "miniature", "--faces", "miniature", *MOMENT, "--quiet")
