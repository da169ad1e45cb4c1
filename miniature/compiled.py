"""C files of this package, compiled when they are first used."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from celeb_basis.errors import MissingPackageError
from celeb_basis.files import cache_folder

_OPTIONS = ("-O3", "-march=native", "-ffast-math", "-shared", "-fPIC")


@functools.cache
def compiler() -> str | None:
    """The C compiler of this machine: ``$CC``, ``cc``, ``gcc`` or ``clang``."""
    return next(filter(None, map(shutil.which, (os.environ.get("CC") or "cc", "cc", "gcc", "clang"))), None)


@functools.cache
def library(source: Path, purpose: str) -> ctypes.CDLL:
    """The functions of a C file, compiled for this machine into the user's cache.

    Args:
        source: The file.
        purpose: What needs it, to begin the sentence of an error.

    Raises:
        MissingPackageError: There is no compiler, or it fails.
    """
    key = hashlib.sha256(source.read_bytes() + " ".join((*_OPTIONS, *os.uname())).encode()).hexdigest()[:16]
    built = cache_folder() / "compiled" / f"{source.stem}-{key}.so"
    if not built.exists():
        _compile(source, built, purpose)
    return ctypes.CDLL(str(built))


def _compile(source: Path, built: Path, purpose: str) -> None:
    program = compiler()
    if program is None:
        raise MissingPackageError(f"{purpose} needs a C compiler: install gcc or clang, or set CC to one.")
    built.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=built.parent) as folder:
        made = Path(folder) / built.name
        done = subprocess.run(
            [program, *_OPTIONS, str(source), "-o", str(made), "-lm"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise MissingPackageError(f"{program} could not compile {source.name}: {done.stderr.strip()[-300:]}")
        os.replace(made, built)
