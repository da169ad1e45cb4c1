"""The celeb basis of a text encoder, built from a list of names or read from the cache (paper section 3.2)."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from celeb_basis.diffusion_model import TextEncoder
from celeb_basis.errors import CelebBasisError, FileError, NamesError, SettingsError
from celeb_basis.files import write_bytes
from celeb_basis.method import Basis, principal_components
from celeb_basis.names.filters import Dropped, FaceCheck, FilteredNames, FilterOptions, filter_names
from celeb_basis.names.lists import NameList
from celeb_basis.reading import check_safetensors, parse_json

_log = logging.getLogger(__name__)

TOKENS = 2
"""``E``: token vectors of one identity, a first and a last name (paper section 3.2)."""

_VERSION = b"celeb-basis 1"
_TENSORS = ("mean", "components", "variance", "total_variance", "name_coefficients")


@dataclass(frozen=True)
class BasisOptions:
    """How names become a basis."""

    components: int = 512
    """``K``."""
    filters: FilterOptions = FilterOptions()
    distinct_tokens: bool = False
    """Count each token of a column once. The paper's code intends this but never does it, so that a first name shared by
    fifty celebrities has fifty times the weight; ``False`` keeps that."""


@dataclass(frozen=True)
class BuiltBasis:
    """A basis with the report on its names."""

    basis: Basis
    filtered: FilteredNames
    from_cache: bool


def build_bases(
    encoders: Sequence[TextEncoder],
    names: NameList,
    options: BasisOptions | None = None,
    *,
    face_check: FaceCheck | None = None,
    cache: Path | None = None,
) -> tuple[BuiltBasis, ...]:
    """:func:`build_basis` for each text encoder of a model, in order.

    Raises:
        SettingsError: If names are to be filtered by near-synonyms, which are known for CLIP-L, and no encoder is one.
    """
    if options is not None and options.filters.max_synonyms is not None and all(e.name != "clip_l" for e in encoders):
        raise SettingsError(
            "Near-synonyms are known only for the text encoder CLIP-L, which this model does not have: leave that filter out."
        )
    return tuple(build_basis(e, names, options, face_check=face_check, cache=cache) for e in encoders)


def build_basis(
    encoder: TextEncoder,
    names: NameList,
    options: BasisOptions | None = None,
    *,
    face_check: FaceCheck | None = None,
    cache: Path | None = None,
) -> BuiltBasis:
    """Build the basis of a text encoder, or read it from the cache.

    Args:
        encoder: The text encoder.
        names: The celebrities' names.
        options: Number of components and filters.
        face_check: Additional check of each name; see :class:`celeb_basis.names.filters.GeneratedFaceCheck`.
        cache: Folder of bases that were built before.

    Raises:
        NamesError: If the list has fewer usable names than components.
        BasisError: If the names span too few dimensions.
    """
    options = options or BasisOptions()
    if face_check is None:
        filtered = filtered_names(encoder, names, options.filters, TOKENS, cache)
    else:
        filtered = filter_names(names, encoder.tokenize, options.filters, tokens=TOKENS, face_check=face_check)
    usable = len(filtered.names)
    if usable <= options.components:
        raise NamesError(
            f"Only {usable} of the {len(names.names)} names in {names.source} are usable, but {options.components} "
            f"components need at least {options.components + 1}: give a longer list or fewer components."
        )
    ids = torch.from_numpy(filtered.token_ids)
    # Rows are gathered in the table's own dtype and upcast afterwards: the whole table is never copied.
    table = encoder.token_table()
    used, where = torch.unique(ids, return_inverse=True)
    rows = table[used.to(table.device)].to("cpu", torch.float32)
    key = _content_hash(rows, where, filtered.names, encoder.name, options)
    if cache is not None and (cached := load_cached(cache, key)) is not None:
        return BuiltBasis(cached, filtered, from_cache=True)
    basis = _compute(encoder.name, names, filtered.names, rows, where, options, key)
    if cache is not None:
        store_cached(cache, basis)
    return BuiltBasis(basis, filtered, from_cache=False)


def basis_names(encoder: TextEncoder, names: NameList, cache: Path | None = None) -> tuple[str, ...]:
    """The names that :func:`build_basis` makes a basis of by default, without building it."""
    return filtered_names(encoder, names, FilterOptions(), TOKENS, cache).names


def fitting_components(encoders: Sequence[TextEncoder], wanted: int) -> int:
    """``wanted`` components, or two thirds of the narrowest text encoder's width if it is narrower than that.

    Two thirds are the paper's 512 of 768: as many components as numbers would not restrict anything.
    """
    width = min(encoder.width for encoder in encoders)
    return wanted if wanted <= width else 2 * width // 3


def _compute(
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
        name_coefficients.append(part.project(rows).float()[column])
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
    """Hash of exactly what the result depends on, so that a fine-tuned text encoder never gets a stale basis."""
    digest = hashlib.sha256(_VERSION)
    digest.update(f"{encoder}|{options.components}|{options.distinct_tokens}|{tuple(rows.shape)}|".encode())
    digest.update("\n".join(names).encode())
    digest.update(where.contiguous().numpy().tobytes())
    digest.update(rows.contiguous().numpy())  # type: ignore[arg-type]
    return digest.hexdigest()


# The cache of bases: one safetensors file each, named by the hash of what the basis was made from.


_MOST_NAMES = 6_000_000
"""Most values in a cached header: each name of a list, and why it was dropped."""


def load_cached(folder: Path, key: str) -> Basis | None:
    """The basis with the hash ``key``; ``None`` if it is not there or cannot be read, and has to be built again."""
    path = folder / f"{key}.safetensors"
    if not path.is_file():
        return None
    try:
        check_safetensors(path)
        with safe_open(path, framework="pt") as file:
            header = parse_json(file.metadata()["basis"], most_values=_MOST_NAMES)
            # Copies: mapped tensors are aligned in another way than those of a basis that was just built, and matrix
            # products of differently aligned tensors differ in their last bits.
            tensors = {name: file.get_tensor(name).clone() for name in _TENSORS}
        basis = Basis(**header | {"names": tuple(header["names"])}, **tensors)
    except (CelebBasisError, SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        _log.warning("The cached basis %s cannot be read and is built again: %s", path, error)
        return None
    return basis if basis.sha256 == key and _consistent(basis) else None


def store_cached(folder: Path, basis: Basis) -> None:
    """Store ``basis`` in ``folder``; if the folder cannot be written, only time is lost at the next start."""
    header = {
        "encoder": basis.encoder,
        "names": basis.names,
        "names_sha256": basis.names_sha256,
        "sha256": basis.sha256,
    }
    tensors = {name: getattr(basis, name) for name in _TENSORS}
    try:
        data = safetensors.torch.save(tensors, {"basis": json.dumps(header, ensure_ascii=False)})
        write_bytes(folder / f"{basis.sha256}.safetensors", data)
    except FileError as error:
        _log.warning("The basis is not cached. %s", error)


def _consistent(basis: Basis) -> bool:
    e, k, d = basis.components.shape
    shapes = {
        "mean": (e, d),
        "variance": (e, k),
        "total_variance": (e,),
        "name_coefficients": (len(basis.names), e, k),
    }
    tensors: dict[str, torch.Tensor] = {name: getattr(basis, name) for name in _TENSORS}
    return all(tuple(tensors[name].shape) == shape for name, shape in shapes.items()) and all(
        tensor.dtype == torch.float32 for tensor in tensors.values()
    )


# The cache of filtered names: tokenizing and filtering thousands of names takes longer than everything else about a cached
# basis.

_PROBES = 64
_IDS, _HEADER = "token_ids", "names"


def filtered_names(
    encoder: TextEncoder, names: NameList, options: FilterOptions, tokens: int, cache: Path | None
) -> FilteredNames:
    """:func:`filter_names` without a face check, through the folder ``cache``.

    The key is made of the list, the options, the size of the vocabulary and the tokens of a sample of the names: a
    tokenizer that agrees on all of these but tokenizes another name differently is not one of CLIP's.
    """
    if cache is None:
        return filter_names(names, encoder.tokenize, options, tokens=tokens)
    path = cache / f"names-{_names_key(encoder, names, options, tokens)}.safetensors"
    if (cached := _load_names(path)) is not None:
        return cached
    filtered = filter_names(names, encoder.tokenize, options, tokens=tokens)
    _store_names(path, filtered)
    return filtered


def _names_key(encoder: TextEncoder, names: NameList, options: FilterOptions, tokens: int) -> str:
    probes = names.names[:: max(1, len(names.names) // _PROBES)]
    # Without the rules that came later and are off: names that were filtered before them are found again.
    rules = {rule: value for rule, value in asdict(options).items() if rule != "max_synonyms" or value is not None}
    parts = [names.sha256, rules, tokens, int(encoder.token_table().shape[0]), encoder.tokenize(probes)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _load_names(path: Path) -> FilteredNames | None:
    if not path.is_file():
        return None
    try:
        check_safetensors(path)
        with safe_open(path, framework="np") as file:
            header = parse_json(file.metadata()[_HEADER], most_values=_MOST_NAMES)
            ids = file.get_tensor(_IDS)
        kept, dropped = tuple(header["kept"]), tuple(Dropped(*item) for item in header["dropped"])
    except (CelebBasisError, SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        _log.warning("The cached names in %s cannot be read and are filtered again: %s", path, error)
        return None
    fits = ids.dtype == np.int64 and ids.ndim == 2 and len(ids) == len(kept)
    return FilteredNames(kept, ids, dropped) if fits else None


def _store_names(path: Path, filtered: FilteredNames) -> None:
    dropped = [(item.name, item.reason, item.kind) for item in filtered.dropped]
    header = json.dumps({"kept": filtered.names, "dropped": dropped})
    try:
        write_bytes(path, safetensors.numpy.save({_IDS: filtered.token_ids}, metadata={_HEADER: header}))
    except FileError as error:
        _log.warning("The filtered names are not cached. %s", error)


# The summary of a basis for a table, a page or JSON.


@dataclass(frozen=True)
class BasisSummary:
    """Key figures of one text encoder's basis, JSON-ready."""

    encoder: str
    width: int
    components: int
    names_used: int
    names_dropped: int
    spread: tuple[float, ...]
    """The names' root-mean-square distance to the mean, for each token position."""
    explained: tuple[tuple[float, ...], ...]
    """For each token position, the share of the names' variance that each component explains, largest first."""
    report: dict[str, Any]
    """Which names were dropped and why."""
    sha256: str
    from_cache: bool

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return dict(self.__dict__)


def summarize(built: BuiltBasis) -> BasisSummary:
    """Summarize a basis and the names it was made from."""
    basis = built.basis
    explained = basis.variance / basis.total_variance[:, None]
    return BasisSummary(
        encoder=basis.encoder,
        width=basis.width,
        components=basis.size,
        names_used=len(basis.names),
        names_dropped=len(built.filtered.dropped),
        spread=tuple(basis.spread.tolist()),
        explained=tuple(tuple(row) for row in explained.tolist()),
        report=built.filtered.report(),
        sha256=basis.sha256,
        from_cache=built.from_cache,
    )
