"""Names what a file of weights is, where it is not what was asked for."""

from __future__ import annotations

from pathlib import Path

from celeb_basis.errors import CelebBasisError
from celeb_basis.exports.torch_files import torch_file_shapes
from celeb_basis.files import open_regular
from celeb_basis.model_files import SAFETENSORS, TORCH, kind_of, kind_of_content
from celeb_basis.reading import MAX_LARGE_HEADER, UnreadableError, read_header

_HEAD = 512


def content_of(path: Path) -> str | None:
    """What the file ``path`` is by its first bytes, as :func:`~celeb_basis.model_files.kind_of_content` names it.

    Raises:
        FileError: The file cannot be read.
    """
    with open_regular(path) as file:
        return kind_of_content(file.read(_HEAD))


def kind_of_file(path: Path) -> str | None:
    """What the file ``path`` is, with an article: ``"a LoRA"``. ``None`` where it does not show it, or cannot be read.

    Only names and shapes of tensors are read, and nothing in the file is executed.
    """
    try:
        content = content_of(path)
        if content == SAFETENSORS:
            with open_regular(path) as file:
                header = read_header(file, most_bytes=MAX_LARGE_HEADER)
            return kind_of({name: entry.shape for name, entry in header.entries.items()})
        return kind_of(torch_file_shapes(path)) if content in TORCH else content
    except (CelebBasisError, UnreadableError, OSError):
        return None
