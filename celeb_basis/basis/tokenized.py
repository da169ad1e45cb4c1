"""Filtered names on the disk: tokenizing and filtering thousands of names takes longer than all the rest of a cached basis."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path

import numpy as np

from celeb_basis.errors import FileError
from celeb_basis.files import write_bytes
from celeb_basis.hosts.base import TextEncoder
from celeb_basis.names.filters import Dropped, FilteredNames, FilterOptions, filter_names
from celeb_basis.names.lists import NameList

_log = logging.getLogger(__name__)

_PROBES = 64
_IDS, _HEADER = "token_ids", "names"


def filtered_names(
    encoder: TextEncoder, names: NameList, options: FilterOptions, tokens: int, cache: Path | None
) -> FilteredNames:
    """:func:`filter_names` without a face check, through the folder ``cache``.

    The key holds the list, the options, the size of the vocabulary and the tokens of names spread over the list: a
    tokenizer that agrees on all of these and still cuts another name differently is not one of CLIP's.
    """
    if cache is None:
        return filter_names(names, encoder.tokenize, options, tokens=tokens)
    path = cache / f"names-{_key(encoder, names, options, tokens)}.safetensors"
    if (known := _load(path)) is not None:
        return known
    filtered = filter_names(names, encoder.tokenize, options, tokens=tokens)
    _store(path, filtered)
    return filtered


def _key(encoder: TextEncoder, names: NameList, options: FilterOptions, tokens: int) -> str:
    probes = names.names[:: max(1, len(names.names) // _PROBES)]
    known = [names.sha256, asdict(options), tokens, int(encoder.token_table().shape[0]), encoder.tokenize(probes)]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def _load(path: Path) -> FilteredNames | None:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as file:
            header = json.loads(file.metadata()[_HEADER])
            ids = file.get_tensor(_IDS)
        kept, dropped = tuple(header["kept"]), tuple(Dropped(*item) for item in header["dropped"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        _log.warning("The remembered names in %s are not readable and are filtered anew: %s", path, error)
        return None
    fits = ids.dtype == np.int64 and ids.ndim == 2 and len(ids) == len(kept)
    return FilteredNames(kept, ids, dropped) if fits else None


def _store(path: Path, filtered: FilteredNames) -> None:
    from safetensors.numpy import save

    dropped = [(item.name, item.reason, item.kind) for item in filtered.dropped]
    header = json.dumps({"kept": filtered.names, "dropped": dropped})
    try:
        write_bytes(path, save({_IDS: filtered.token_ids}, metadata={_HEADER: header}))
    except FileError as error:
        _log.warning("The filtered names are not remembered. %s", error)
