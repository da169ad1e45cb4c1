"""SHA-256 of a checkpoint's weights, remembered on disk so that gigabytes are read once."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from celeb_basis.errors import FileError, HostError
from celeb_basis.files import cache_folder, explained_os_errors, sha256_of_file, write_json

if TYPE_CHECKING:
    import torch


def sha256_of_weights(path: Path) -> str:
    """Hex digest of a ``.safetensors`` file, or of all of them in a folder in the order of their relative paths.

    A folder's digest covers the names of its files too. Digests are kept in the cache folder by path, size and time of
    change.

    Raises: :class:`HostError` for a folder without weights, :class:`celeb_basis.errors.FileError` for unreadable files.
    """
    path = Path(path)
    if path.is_file():
        return _remembered(path)
    with explained_os_errors(path, "read"):
        files = sorted(path.rglob("*.safetensors"), key=lambda file: file.relative_to(path).as_posix())
    if not files:
        raise HostError(f"{path} holds no .safetensors weights: convert its weights to safetensors.")
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(path).as_posix()}\0{_remembered(file)}\n".encode())
    return digest.hexdigest()


def sha256_of_modules(modules: Iterable[torch.nn.Module]) -> str:
    """Hex digest of the parameters' names, kinds and bytes of modules that came from no file."""
    import torch

    digest = hashlib.sha256()
    for module in modules:
        for name, parameter in module.named_parameters():
            digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}\n".encode())
            digest.update(parameter.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _remembered(file: Path) -> str:
    file = file.resolve()
    with explained_os_errors(file, "read"):
        state = file.stat()
    key = hashlib.sha256(f"{file}\0{state.st_size}\0{state.st_mtime_ns}".encode()).hexdigest()
    note = cache_folder() / "weights" / f"{key[:32]}.json"
    try:
        kept = json.loads(note.read_text(encoding="utf-8"))["sha256"]
        if isinstance(kept, str) and len(kept) == 64:
            return kept
    except (OSError, ValueError, KeyError, TypeError):
        pass
    found = sha256_of_file(file)
    with contextlib.suppress(FileError):  # a cache that cannot be written costs time, no more
        write_json(note, {"file": str(file), "sha256": found})
    return found
