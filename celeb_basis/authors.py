"""The coefficient files of the paper's authors (https://github.com/ygtxr1997/CelebBasis), read without unpickling.

Their training writes ``embeddings_gs-STEP.pt``, a dictionary whose ``id_coefficients`` is a list with a place for each of
up to ten people, ``(E, heads, K)`` each (``id_embeddings``, ``(E, D)``, in another mode). Their extraction writes one
tensor a file: ``id_coefficient_NNN.pt`` and ``id_embedding_NNN.pt``. All exist in half precision too.

Their coefficients are numbers in *their* basis (:mod:`celeb_basis.authors_basis`) and mean nothing in another one. An
imported person keeps them, and has the very token vectors that the authors' code makes of them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from celeb_basis.authors_basis import MAX_HEADS
from celeb_basis.errors import ExportError
from celeb_basis.exports.read import imported_identity
from celeb_basis.exports.torch_files import read_torch_file
from celeb_basis.identities.expand import OTHERS_BASIS, new_identity
from celeb_basis.identities.identity import Floats, Identity

if TYPE_CHECKING:
    from celeb_basis.basis.basis import Basis
    from celeb_basis.hosts.base import ModelInfo

logger = logging.getLogger(__name__)

MAX_PEOPLE = 1000
COMPONENTS = 512
"""``K`` as the authors have it."""

WITHOUT_A_BASIS = (
    "{file} holds coefficients in the authors' own basis: give the celeb_basis.pt that was extracted with it, or your copy "
    "of their list, wiki_names_v2.txt."
)
_SIGNS = (
    " The basis was made from a list, with the signs that this machine's decomposition gives it. Those of another machine, or "
    "of another number of threads, may differ in about half of the components: if the file was not made on this one, the face "
    "may be another. With the celeb_basis.pt of its extraction it is right everywhere."
)


@dataclass(frozen=True)
class AuthorsFile:
    """The people of one file. One of the two tuples is empty."""

    coefficients: tuple[Floats, ...] = ()
    """``(E, K)`` each."""
    vectors: tuple[Floats, ...] = ()
    """``(E, D)`` each."""
    skipped: int = 0
    """Places that were never trained: they still hold the noise that they all started from."""

    @property
    def components(self) -> int:
        """``K`` of the coefficients; the authors' own number where there are none."""
        return int(self.coefficients[0].shape[1]) if self.coefficients else COMPONENTS


def read_authors_file(path: Path) -> AuthorsFile:
    """Read ``embeddings_gs-STEP.pt``, ``id_coefficient_NNN.pt`` or ``id_embedding_NNN.pt``. Nothing in it is run.

    Raises: :class:`ExportError` for a damaged, foreign or malicious file, or one without coefficients;
    :class:`FileError` if it cannot be read at all.
    """
    path = Path(path)
    content = read_torch_file(path)
    if isinstance(content, dict):
        for key in ("id_coefficients", "id_embeddings"):
            if isinstance(content.get(key), list) and content[key]:
                return _people(content[key], key == "id_coefficients", path)
        if "meta_id_net" in content:
            raise ExportError(
                f"{path.name} holds the authors' network and nobody's coefficients: "
                "save it again with test_mode 'coefficient', or extract the coefficients with their script."
            )
    elif isinstance(content, np.ndarray) and content.ndim == 3:
        if content.shape[1] > MAX_HEADS:
            raise ExportError(f"{path.name} is the authors' basis and no person: give it beside a coefficient file.")
        return _people([content], True, path)
    elif isinstance(content, np.ndarray) and content.ndim == 2:
        return _people([content], False, path)
    raise ExportError(f"{path.name} is none of the authors' coefficient files: choose their embeddings_gs-STEP.pt.")


def import_authors_file(path: Path, basis: Basis, info: ModelInfo, *, name: str | None = None) -> tuple[Identity, ...]:
    """The people of one of the authors' files as identities: ``NAME``, or ``NAME-1``, ``NAME-2`` and so on.

    Parameters: ``basis`` is the authors' on the model ``info``.

    Raises: :class:`ExportError` for a file of no use, or what does not fit the model.
    """
    path = Path(path)
    people = read_authors_file(path)
    if info.family != "sd1":
        raise ExportError(
            f"The authors' files are for Stable Diffusion 1, but {info.name} is of {info.family}: choose a model of sd1."
        )
    count = len(people.coefficients) + len(people.vectors)
    stem = name or path.stem
    names = [stem] if count == 1 else [f"{stem}-{number}" for number in range(1, count + 1)]
    if people.skipped:
        logger.info("%s: %d places were never trained and are left out.", path.name, people.skipped)
    if people.vectors:
        return tuple(_from_vectors(n, v, basis, info, path) for n, v in zip(names, people.vectors, strict=True))
    return tuple(_from_coefficients(n, c, basis, info, path) for n, c in zip(names, people.coefficients, strict=True))


def _from_vectors(name: str, vectors: Floats, basis: Basis, info: ModelInfo, path: Path) -> Identity:
    import torch

    if vectors.shape != (basis.positions, basis.width):
        raise ExportError(
            f"{path.name} is for token vectors of {_shape(vectors)}, but {info.name} needs "
            f"{basis.positions} x {basis.width}: choose a model of its family."
        )
    return imported_identity(name, [torch.from_numpy(vectors.copy())], [basis], info, origin=path.name)


def _from_coefficients(name: str, coefficients: Floats, basis: Basis, info: ModelInfo, path: Path) -> Identity:
    import torch

    if coefficients.shape != (basis.positions, basis.size):
        raise ExportError(
            f"{path.name} holds {_shape(coefficients)} coefficients, but the authors' basis is for "
            f"{basis.positions} x {basis.size}: give the list or the celeb_basis.pt that belongs to the file."
        )
    return new_identity(
        name,
        [torch.from_numpy(coefficients.copy())],
        [basis],
        info,
        source="imported",
        settings={"operation": "import", "file": path.name, "basis": OTHERS_BASIS},
        notes=(
            f"Imported from {path.name}, in the authors' own basis, on {info.name}. On other checkpoints its token vectors are "
            "used as they are." + (_SIGNS if basis.names else "")
        ),
    )


def _people(tensors: list[Any], are_coefficients: bool, path: Path) -> AuthorsFile:
    if len(tensors) > MAX_PEOPLE:
        raise ExportError(f"{path.name} holds {len(tensors)} people: at most {MAX_PEOPLE} are read.")
    arrays = [_floats(tensor, path) for tensor in tensors]
    if not are_coefficients:
        if any(array.ndim != 2 for array in arrays):
            raise ExportError(f"{path.name} holds token vectors of an unknown shape: take another copy of it.")
        kept = [array for array in arrays if not _repeated(array, arrays)]
        return AuthorsFile(vectors=tuple(_some(kept, path)), skipped=len(arrays) - len(kept))
    if any(array.ndim != 3 for array in arrays):
        raise ExportError(f"{path.name} holds coefficients of an unknown shape: take another copy of it.")
    if any(array.shape[1] != 1 for array in arrays):
        raise ExportError(f"{path.name} was trained with several heads (meta_heads), which cannot be read: use one.")
    rows = [array[:, 0] for array in arrays]
    kept = [row for row in rows if not _repeated(row, rows) and not _is_noise(row)]
    return AuthorsFile(coefficients=tuple(_some(kept, path)), skipped=len(rows) - len(kept))


def _some(kept: list[Floats], path: Path) -> list[Floats]:
    if not kept:
        raise ExportError(f"{path.name} holds nobody who was trained: choose the file of a later step.")
    return kept


def _repeated(array: Floats, arrays: list[Floats]) -> bool:
    """Whether another place holds the same numbers: all places start from the same ones."""
    return sum(array.shape == other.shape and np.array_equal(array, other) for other in arrays) > 1


def _is_noise(coefficients: Floats) -> bool:
    """Whether these are still the standard normal numbers, of norm sqrt(K), that a place starts from; trained ones have
    norm 1 and a rest of that noise that halves every 69 steps."""
    return bool(np.linalg.norm(coefficients, axis=1).min() > 0.5 * np.sqrt(coefficients.shape[1]) > 1)


def _floats(tensor: Any, path: Path) -> Floats:
    if not isinstance(tensor, np.ndarray) or tensor.dtype.kind != "f" or not tensor.size:
        raise ExportError(f"{path.name} is none of the authors' coefficient files: choose their embeddings_gs-STEP.pt.")
    with np.errstate(over="ignore"):
        array: Floats = tensor.astype(np.float32)
    if not np.isfinite(array).all():
        raise ExportError(f"{path.name} holds NaN or infinity: take the file of an earlier step.")
    return array


def _shape(array: Floats) -> str:
    return " x ".join(map(str, array.shape))
