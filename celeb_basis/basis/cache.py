"""Bases on the disk, one safetensors file each, named by the hash of what they were made from."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch

from celeb_basis.basis.basis import Basis
from celeb_basis.errors import FileError
from celeb_basis.files import write_bytes

_log = logging.getLogger(__name__)

_TENSORS = ("mean", "components", "variance", "total_variance", "name_coefficients")


def load_cached(folder: Path, key: str) -> Basis | None:
    """The basis with the hash ``key``, or ``None`` if it is not there or not readable (it is then made anew)."""
    from safetensors import SafetensorError, safe_open

    path = folder / f"{key}.safetensors"
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["basis"])
            tensors = {name: file.get_tensor(name) for name in _TENSORS}
        basis = Basis(**header | {"names": tuple(header["names"])}, **tensors)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        _log.warning("The cached basis %s is not readable and is made anew: %s", path, error)
        return None
    return basis if basis.sha256 == key and _consistent(basis) else None


def store_cached(folder: Path, basis: Basis) -> None:
    """Keep ``basis`` in ``folder``; a folder that cannot be written costs time at the next start, nothing else."""
    from safetensors.torch import save

    header = {
        "encoder": basis.encoder,
        "names": basis.names,
        "names_sha256": basis.names_sha256,
        "sha256": basis.sha256,
    }
    tensors = {name: getattr(basis, name) for name in _TENSORS}
    try:
        data = save(tensors, {"basis": json.dumps(header, ensure_ascii=False)})
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
