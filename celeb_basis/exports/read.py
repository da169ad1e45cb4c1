"""Reading plain textual inversion files of any tool, and putting them into a basis as identities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from celeb_basis.errors import ExportError
from celeb_basis.exports.torch_files import MAX_FILE_SIZE, read_torch_file
from celeb_basis.files import explained_os_errors
from celeb_basis.identities.expand import new_identity
from celeb_basis.identities.identity import Floats, Identity

if TYPE_CHECKING:
    import torch

    from celeb_basis.basis.basis import Basis
    from celeb_basis.hosts.base import ModelInfo

MAX_VECTORS = 75
"""Most token vectors of one word: a prompt's chunk has room for no more."""


@dataclass(frozen=True)
class Embedding:
    """A plain textual inversion."""

    name: str
    """The file's stem, which is its word in most tools."""
    vectors: Mapping[str, Floats]
    """``(E, D)`` by text encoder (``"clip_l"``, ``"clip_g"``); under ``""`` where the file does not name one."""
    steps: int = 0


def import_embedding(path: Path) -> Embedding:
    """Read the textual inversion file ``path`` (``.safetensors``, ``.pt`` or ``.bin``), running nothing in it.

    Read are the WebUI's form, a single tensor under any key, and ``clip_l`` with ``clip_g``.

    Raises: :class:`ExportError` for a damaged, foreign or malicious file, :class:`FileError` if it cannot be read.
    """
    path = Path(path)
    content = _safetensors(path) if path.suffix.lower() == ".safetensors" else read_torch_file(path)
    if isinstance(content, np.ndarray):
        return Embedding(path.stem, {"": _rows(content, path)})
    if not isinstance(content, dict):
        raise _foreign(path)
    steps = content.get("step")
    steps = steps if isinstance(steps, int) and not isinstance(steps, bool) and 0 <= steps < 2**40 else 0
    tensors = content.get("string_to_param", content)
    if not isinstance(tensors, dict) or not tensors or not all(isinstance(key, str) for key in tensors):
        raise _foreign(path)
    if {"clip_l", "clip_g"} <= set(tensors):
        return Embedding(path.stem, {key: _rows(tensors[key], path) for key in ("clip_l", "clip_g")}, steps)
    if len(tensors) != 1:
        raise ExportError(
            f"{path.name} holds {len(tensors)} entries, but an embedding is one word: export the words one by one."
        )
    (key, tensor), *_ = tensors.items()
    named = key if key in ("clip_l", "clip_g", "clip_h") else ""
    return Embedding(path.stem, {named: _rows(tensor, path)}, steps)


def identity_from_embedding(
    embedding: Embedding, bases: Sequence[Basis], info: ModelInfo, *, name: str | None = None
) -> Identity:
    """``embedding`` as an identity: the points of ``bases`` nearest to its vectors.

    What lies outside the space of celebrities is lost. The identity's notes and ``settings["explained"]`` say how much
    is kept: the share of the squared distance to the mean that the basis holds, 0 to 1 for each text encoder. A person
    learned in this basis has 1; an ordinary textual inversion far less, and will draw differently.

    Raises: :class:`ExportError` if the embedding has other text encoders, another width or another number of vectors.
    """
    vectors = _vectors_for(embedding, bases, info)
    return imported_identity(name or embedding.name, vectors, bases, info, origin=embedding.name, steps=embedding.steps)


def imported_identity(
    name: str, vectors: Sequence[torch.Tensor], bases: Sequence[Basis], info: ModelInfo, *, origin: str, steps: int = 0
) -> Identity:
    """An identity of the points of ``bases`` nearest to ``(E, D)`` vectors, one tensor for each basis."""
    coefficients = [basis.project(rows) for basis, rows in zip(bases, vectors, strict=True)]
    explained = [
        _explained(basis, rows, found) for basis, rows, found in zip(bases, vectors, coefficients, strict=True)
    ]
    shares = ", ".join(f"{share:.0%} for {basis.encoder}" for basis, share in zip(bases, explained, strict=True))
    return new_identity(
        name,
        coefficients,
        bases,
        info,
        source="imported",
        steps=steps,
        settings={"operation": "import", "file": origin, "explained": explained},
        notes=f"Imported from {origin}. The basis explains {shares} of its squared distance to the mean.",
    )


def _explained(basis: Basis, vectors: torch.Tensor, coefficients: torch.Tensor) -> float:
    whole = float((vectors.double() - basis.mean.double()).square().sum())
    kept = float(coefficients.double().square().sum())
    return min(1.0, kept / whole) if whole > 0 else 1.0


def _vectors_for(embedding: Embedding, bases: Sequence[Basis], info: ModelInfo) -> list[torch.Tensor]:
    import torch

    given = dict(embedding.vectors)
    if set(given) == {""} and len(bases) == 1:
        given = {bases[0].encoder: given[""]}
    if set(given) != {basis.encoder for basis in bases}:
        has = ", ".join(sorted(filter(None, given))) or "one unnamed text encoder"
        wants = ", ".join(basis.encoder for basis in bases)
        raise ExportError(
            f"The embedding {embedding.name!r} is for {has}, but {info.name} has {wants}: choose a model of its family."
        )
    for basis in bases:
        rows, width = given[basis.encoder].shape
        if width != basis.width:
            raise ExportError(
                f"The embedding {embedding.name!r} has vectors of {width} numbers, but {info.name} needs {basis.width}: "
                "choose a model of its family."
            )
        if rows != basis.positions:
            raise ExportError(
                f"The embedding {embedding.name!r} has {rows} token vectors, but the basis describes words of "
                f"{basis.positions}: only embeddings of {basis.positions} vectors can be taken in."
            )
    return [torch.from_numpy(given[basis.encoder].copy()) for basis in bases]


def _rows(tensor: Any, path: Path) -> Floats:
    if not isinstance(tensor, np.ndarray) or tensor.dtype.kind != "f" or tensor.ndim not in (1, 2) or not tensor.size:
        raise _foreign(path)
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, which is refused below
        rows: Floats = np.atleast_2d(tensor).astype(np.float32)
    if rows.shape[0] > MAX_VECTORS:
        raise ExportError(
            f"{path.name} holds {rows.shape[0]} vectors, more than a prompt has room for: choose another."
        )
    if not np.isfinite(rows).all():
        raise ExportError(f"{path.name} holds NaN or infinity: take another copy of it, or train it again.")
    return rows


def _foreign(path: Path) -> ExportError:
    return ExportError(f"{path.name} is no textual inversion embedding of a kind known here: choose another file.")


def _safetensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    with explained_os_errors(path, "read"), open(path, "rb") as file:
        data = file.read(MAX_FILE_SIZE + 1)
    if len(data) > MAX_FILE_SIZE:
        raise ExportError(
            f"{path.name} is larger than {MAX_FILE_SIZE >> 20} MB, so it is no embedding: choose another."
        )
    try:
        # Through torch, which knows bfloat16; only plain floats are of interest.
        return {key: tensor.float().numpy() for key, tensor in load(data).items()}
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError):
        raise ExportError(f"{path.name} is no safetensors file, or a damaged one: take another copy of it.") from None
