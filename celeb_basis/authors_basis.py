"""The basis of the paper's authors: made again from their list of names, or read from their ``celeb_basis.pt``.

Their coefficients are numbers in *their* basis. Neither list nor basis comes with this project: both are the user's own
copies. What their code does, and what is done again here for the same numbers:

- the distinct lines of the list, sorted; of each name the first token goes into one column and the second into another. A
  name of one token is in the first column alone;
- each column's mean, and the right singular vectors of its centred rows, in float32, in the order and with the signs that
  the decomposition gives. Repeated tokens stay, although their setting ``rm_repeats`` says otherwise.

Their programs make the basis anew at every start, so their files rest on these signs, which rounding decides: with another
version of torch, or another number of threads, about half of the components can come out the other way round. Mean and space
are the same everywhere; the meaning of coefficients is sure with the ``celeb_basis.pt`` of the same machine alone.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from celeb_basis.basis.basis import Basis
from celeb_basis.errors import BasisError, ExportError
from celeb_basis.exports.torch_files import read_torch_file

if TYPE_CHECKING:
    import torch

    from celeb_basis.hosts.base import TextEncoder
    from celeb_basis.names.lists import NameList

POSITIONS = 2
"""``E``."""
MAX_HEADS = 8
"""Fewer than any basis has components: this tells coefficients, ``(E, heads, K)``, from a basis, ``(E, 1 + K, D)``."""
_VERSION = b"celeb-basis authors 1"
_MAX_TOKENS = 75
"""Their tokenizer cuts a name where a prompt ends."""


def rebuild_authors_basis(encoder: TextEncoder, names: NameList, components: int = 512) -> Basis:
    """The authors' basis of ``names`` in the text encoder, as their code makes it.

    The basis's own ``names`` are those of two tokens and more, once each.

    Raises: :class:`BasisError` for a list that spans fewer dimensions than ``components``.
    """
    import torch

    chosen = sorted(set(names.names))
    ids = [of_name[:_MAX_TOKENS] for of_name in encoder.tokenize(chosen)]
    table = encoder.token_table()
    columns = [[of_name[position] for of_name in ids if len(of_name) > position] for position in range(POSITIONS)]
    means, rows, variance, total = [], [], [], []
    for column in columns:
        vectors = table[torch.tensor(column, dtype=torch.int64, device=table.device)].detach().to("cpu", torch.float32)
        if min(len(column) - 1, vectors.shape[-1]) < components:
            raise BasisError(
                f"The names in {names.source} give {len(column)} token vectors of {vectors.shape[-1]} numbers, too few for "
                f"{components} components: give the authors' own list, and a model of the kind that they used."
            )
        mean = vectors.mean(dim=0, keepdim=True)
        # In float32 and with all vectors, as theirs: another precision or driver might turn signs around.
        _, values, right = torch.linalg.svd(vectors - mean, full_matrices=True)
        spread = values.square() / max(1, len(column) - 1)
        means.append(mean[0])
        rows.append(right[:components])
        variance.append(spread[:components])
        total.append(spread.sum())
    mean, stacked = torch.stack(means), torch.stack(rows).contiguous()
    whole = [index for index, of_name in enumerate(ids) if len(of_name) >= POSITIONS]
    pairs = torch.tensor([ids[index][:POSITIONS] for index in whole], dtype=torch.int64, device=table.device)
    vectors = table[pairs].detach().to("cpu", torch.float32)
    return Basis(
        encoder=encoder.name,
        mean=mean,
        components=stacked,
        variance=torch.stack(variance),
        total_variance=torch.stack(total),
        names=tuple(chosen[index] for index in whole),
        name_coefficients=torch.einsum("ned,ekd->nek", vectors - mean, stacked).contiguous(),
        names_sha256=names.sha256,
        sha256=_content_hash(mean, stacked),
    )


def read_authors_basis(path: Path, encoder: str = "clip_l") -> Basis:
    """Read the authors' ``celeb_basis.pt``, ``(E, 1 + K, D)`` with the mean in row 0. It names nobody.

    Raises: :class:`ExportError` for another file or a damaged one.
    """
    import torch

    path = Path(path)
    content = read_torch_file(path)
    if not isinstance(content, np.ndarray) or content.ndim != 3 or content.shape[1] <= MAX_HEADS:
        raise ExportError(f"{path.name} is not the authors' basis: choose the celeb_basis.pt of their extraction.")
    if content.dtype.kind != "f" or not content.size or not np.isfinite(content).all():
        raise ExportError(f"{path.name} holds no numbers or NaN: extract the authors' basis again.")
    array = torch.from_numpy(content.astype(np.float32))
    mean, components = array[:, 0].contiguous(), array[:, 1:].contiguous()
    positions, size, _ = components.shape
    return Basis(
        encoder=encoder,
        mean=mean,
        components=components,
        variance=torch.full((positions, size), float("nan")),
        total_variance=torch.full((positions,), float("nan")),
        names=(),
        name_coefficients=torch.zeros(0, positions, size),
        names_sha256="",
        sha256=_content_hash(mean, components),
    )


def _content_hash(mean: torch.Tensor, components: torch.Tensor) -> str:
    digest = hashlib.sha256(_VERSION)
    digest.update(repr(tuple(components.shape)).encode())
    digest.update(mean.contiguous().numpy().tobytes())
    digest.update(components.contiguous().numpy().tobytes())
    return digest.hexdigest()
