"""Building the basis of a text encoder from a list of names, through the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from celeb_basis.basis.basis import Basis
from celeb_basis.basis.cache import load_cached, store_cached
from celeb_basis.basis.pca import principal_components
from celeb_basis.basis.tokenized import filtered_names
from celeb_basis.errors import NamesError
from celeb_basis.hosts.base import TextEncoder
from celeb_basis.names.filters import FaceCheck, FilteredNames, FilterOptions, filter_names
from celeb_basis.names.lists import NameList

TOKENS = 2
"""``E``: token vectors of one identity, a first and a last name (paper section 3.2)."""

_VERSION = b"celeb-basis 1"


@dataclass(frozen=True)
class BasisOptions:
    """How names become a basis."""

    components: int = 512
    """``K``."""
    filters: FilterOptions = FilterOptions()
    distinct_tokens: bool = False
    """Let every token of a column count once. The paper's code means to, but never does, so that a first name which
    fifty celebrities share weighs fifty times; ``False`` keeps that."""


@dataclass(frozen=True)
class BuiltBasis:
    """A basis with the report of its names."""

    basis: Basis
    filtered: FilteredNames
    from_cache: bool


def build_basis(
    encoder: TextEncoder,
    names: NameList,
    options: BasisOptions | None = None,
    *,
    draws_face: FaceCheck | None = None,
    cache: Path | None = None,
) -> BuiltBasis:
    """The basis of ``encoder`` for ``names``: made, or read from the folder ``cache`` if it was made before.

    Parameters: ``draws_face`` says of a name why the model cannot draw it (``None`` if it can); see ``names.drawn``.

    Raises: :class:`NamesError` for a list with fewer usable names than components, :class:`BasisError` for names that
    span too few dimensions.
    """
    options = options or BasisOptions()
    if draws_face is None:
        filtered = filtered_names(encoder, names, options.filters, TOKENS, cache)
    else:
        filtered = filter_names(names, encoder.tokenize, options.filters, tokens=TOKENS, draws_face=draws_face)
    usable = len(filtered.names)
    if usable <= options.components:
        raise NamesError(
            f"Only {usable} of the {len(names.names)} names in {names.source} are usable, but {options.components} "
            f"components need at least {options.components + 1}: give a longer list or fewer components."
        )
    ids = torch.from_numpy(filtered.token_ids)
    # The table is gathered as the host holds it and widened afterwards: the whole table is never copied.
    table = encoder.token_table()
    used, where = torch.unique(ids, return_inverse=True)
    rows = table[used.to(table.device)].to("cpu", torch.float32)
    key = _content_hash(rows, where, filtered.names, encoder.name, options)
    if cache is not None and (cached := load_cached(cache, key)) is not None:
        return BuiltBasis(cached, filtered, from_cache=True)
    basis = _make(encoder.name, names, filtered.names, rows, where, options, key)
    if cache is not None:
        store_cached(cache, basis)
    return BuiltBasis(basis, filtered, from_cache=False)


def most_components(encoders: Sequence[TextEncoder]) -> int:
    """The most components that bases of these text encoders can have: as many as the narrowest's vectors have numbers."""
    return min(encoder.width for encoder in encoders)


def fitting_components(encoders: Sequence[TextEncoder], wanted: int) -> int:
    """``wanted`` components, or :func:`most_components` if that is fewer."""
    return min(wanted, most_components(encoders))


def build_bases(
    encoders: Sequence[TextEncoder],
    names: NameList,
    options: BasisOptions | None = None,
    *,
    draws_face: FaceCheck | None = None,
    cache: Path | None = None,
) -> tuple[BuiltBasis, ...]:
    """:func:`build_basis` for each text encoder of a host, in order."""
    return tuple(build_basis(e, names, options, draws_face=draws_face, cache=cache) for e in encoders)


def _make(
    encoder: str,
    names: NameList,
    used_names: tuple[str, ...],
    rows: torch.Tensor,
    where: torch.Tensor,
    options: BasisOptions,
    key: str,
) -> Basis:
    parts = []
    name_coefficients = []
    for column in where.unbind(dim=1):
        tokens, repeats = torch.unique(column, return_counts=True)
        part = principal_components(rows[tokens], options.components, None if options.distinct_tokens else repeats)
        # Names share tokens: each distinct token is projected once.
        name_coefficients.append(((rows.double() - part.mean) @ part.components.T).float()[column])
        parts.append(part)
    return Basis(
        encoder=encoder,
        mean=torch.stack([part.mean for part in parts]).float(),
        components=torch.stack([part.components for part in parts]).float().contiguous(),
        variance=torch.stack([part.variance for part in parts]).float(),
        total_variance=torch.tensor([part.total_variance for part in parts], dtype=torch.float32),
        names=used_names,
        name_coefficients=torch.stack(name_coefficients, dim=1).contiguous(),
        names_sha256=names.sha256,
        sha256=key,
    )


def _content_hash(
    rows: torch.Tensor, where: torch.Tensor, names: Sequence[str], encoder: str, options: BasisOptions
) -> str:
    """Hash of exactly what the result depends on, so that a fine-tuned text encoder never meets a stale basis."""
    digest = hashlib.sha256(_VERSION)
    digest.update(f"{encoder}|{options.components}|{options.distinct_tokens}|{tuple(rows.shape)}|".encode())
    digest.update("\n".join(names).encode())
    digest.update(where.contiguous().numpy().tobytes())
    digest.update(rows.contiguous().numpy())  # type: ignore[arg-type]
    return digest.hexdigest()
