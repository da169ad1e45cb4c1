"""Digests of weights, of files and in memory, by which checkpoints are known."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch

from celeb_basis.errors import FileError, HostError
from celeb_basis.files import cache_folder, explained_os_errors, sha256_of_file, write_json
from celeb_basis.reading import MAX_HEADER, read_json


def sha256_of_weights(path: Path) -> str:
    """Hex digest of a ``.safetensors`` file, or of all ``.safetensors`` files of a folder sorted by relative path.

    The digest of a folder covers the names of its files too. Digests are cached on disk by path, size and time of
    change, so that gigabytes are read only once.

    Raises:
        HostError: The folder holds no weights.
        FileError: A file cannot be read.
    """
    path = Path(path)
    if path.is_file():
        return _cached_sha256(path)
    with explained_os_errors(path, "read"):
        files = sorted(path.rglob("*.safetensors"), key=lambda file: file.relative_to(path).as_posix())
    if not files:
        raise HostError(f"{path} holds no .safetensors weights: convert its weights to safetensors.")
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(path).as_posix()}\0{_cached_sha256(file)}\n".encode())
    return digest.hexdigest()


def sha256_of_modules(modules: Iterable[torch.nn.Module]) -> str:
    """Hex digest of the names, dtypes, shapes and bytes of the parameters, for modules that were not loaded from a file."""
    digest = hashlib.sha256()
    for module in modules:
        for name, parameter in module.named_parameters():
            digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}\n".encode())
            digest.update(parameter.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _cached_sha256(file: Path) -> str:
    file = file.resolve()
    with explained_os_errors(file, "read"):
        state = file.stat()
    key = hashlib.sha256(f"{file}\0{state.st_size}\0{state.st_mtime_ns}".encode()).hexdigest()
    note = cache_folder() / "weights" / f"{key[:32]}.json"
    try:
        cached = read_json(note, most_bytes=MAX_HEADER)["sha256"] if note.is_file() else None
        if isinstance(cached, str) and len(cached) == 64:
            return cached
    except (FileError, OSError, ValueError, KeyError, TypeError):
        pass
    found = sha256_of_file(file)
    with contextlib.suppress(FileError):  # an unwritable cache only costs time
        write_json(note, {"file": str(file), "sha256": found})
    return found
