"""The coefficient files of the paper's authors (https://github.com/ygtxr1997/CelebBasis), read without unpickling.

Their training writes ``embeddings_gs-STEP.pt``, a dictionary whose ``id_coefficients`` is a list with a place for each of
up to ten people, ``(E, heads, K)`` each (``id_embeddings``, ``(E, D)``, in another mode). Their extraction writes one
tensor a file: ``id_coefficient_NNN.pt`` and ``id_embedding_NNN.pt``. All exist in half precision too.

Their coefficients are numbers in *their* basis (:mod:`celeb_basis.exports.celebbasis_repo`) and mean nothing in another one. An
imported person keeps them, and has the very token vectors that the authors' code makes of them.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from celeb_basis.errors import BasisError, ExportError
from celeb_basis.exports.textual_inversion import imported_identity
from celeb_basis.exports.torch_files import read_torch_file
from celeb_basis.identities.expand import OTHERS_BASIS, new_identity
from celeb_basis.identities.identity import Floats, Identity
from celeb_basis.method import Basis, PrincipalComponents, project, repository_components

if TYPE_CHECKING:
    import torch

    from celeb_basis.diffusion_model import ModelInfo, TextEncoder
    from celeb_basis.method import Basis
    from celeb_basis.names.lists import NameList


# FOLDED: The basis of the paper's authors: made again from their list of names, or read from their
# FOLDED: ``celeb_basis.pt``.
# FOLDED:
# FOLDED: Their coefficients are numbers in *their* basis. Neither list nor basis comes with this project: both are
# FOLDED: the user's own
# FOLDED: copies. What their code does, and what is done again here for the same numbers:
# FOLDED:
# FOLDED: - the distinct lines of the list, sorted; of each name the first token goes into one column and the
# FOLDED: second into another. A
# FOLDED:   name of one token is in the first column alone;
# FOLDED: - each column's mean, and the right singular vectors of its centred rows, in float32, in the order and
# FOLDED: with the signs that
# FOLDED:   the decomposition gives. Repeated tokens stay, although their setting ``rm_repeats`` says otherwise.
# FOLDED:
# FOLDED: Their programs make the basis anew at every start, so their files rest on these signs, which rounding
# FOLDED: decides: with another
# FOLDED: version of torch, or another number of threads, about half of the components can come out the other way
# FOLDED: round. Mean and space
# FOLDED: are the same everywhere; the meaning of coefficients is sure with the ``celeb_basis.pt`` of the same
# FOLDED: machine alone.

POSITIONS = 2
"""``E``."""
MAX_HEADS = 8
"""Fewer than any basis has components: this tells coefficients, ``(E, heads, K)``, from a basis, ``(E, 1 + K, D)``."""
_VERSION = b"celeb-basis authors 1"
_MAX_TOKENS = 75
"""Their tokenizer cuts a name where a prompt ends."""


def rebuild_celebbasis_basis(encoder: TextEncoder, names: NameList, components: int = 512) -> Basis:
    """The authors' basis of ``names`` in the text encoder, as their code makes it.

    The basis's own ``names`` are those of two tokens and more, once each.

    Raises: :class:`BasisError` for a list that spans fewer dimensions than ``components``.
    """
    import torch

    chosen = sorted(set(names.names))
    ids = [of_name[:_MAX_TOKENS] for of_name in encoder.tokenize(chosen)]
    table = encoder.token_table()
    columns = [[of_name[position] for of_name in ids if len(of_name) > position] for position in range(POSITIONS)]
    parts: list[PrincipalComponents] = []
    for column in columns:
        vectors = table[torch.tensor(column, dtype=torch.int64, device=table.device)].detach().to("cpu", torch.float32)
        if min(len(column) - 1, vectors.shape[-1]) < components:
            raise BasisError(
                f"The names in {names.source} give {len(column)} token vectors of {vectors.shape[-1]} numbers, too few for "
                f"{components} components: give the authors' own list, and a model of the kind that they used."
            )
        parts.append(repository_components(vectors, components))
    mean = torch.stack([part.mean for part in parts])
    stacked = torch.stack([part.components for part in parts]).contiguous()
    whole = [index for index, of_name in enumerate(ids) if len(of_name) >= POSITIONS]
    pairs = torch.tensor([ids[index][:POSITIONS] for index in whole], dtype=torch.int64, device=table.device)
    vectors = table[pairs].detach().to("cpu", torch.float32)
    return Basis(
        encoder=encoder.name,
        mean=mean,
        components=stacked,
        variance=torch.stack([part.variance for part in parts]),
        total_variance=torch.tensor([part.total_variance for part in parts], dtype=torch.float32),
        names=tuple(chosen[index] for index in whole),
        name_coefficients=project(vectors, mean, stacked).contiguous(),
        names_sha256=names.sha256,
        sha256=_content_hash(mean, stacked),
    )


def read_celebbasis_basis(path: Path, encoder: str = "clip_l") -> Basis:
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
class CelebBasisFile:
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


def read_celebbasis_file(path: Path) -> CelebBasisFile:
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


def import_celebbasis_file(
    path: Path, basis: Basis, info: ModelInfo, *, name: str | None = None
) -> tuple[Identity, ...]:
    """The people of one of the authors' files as identities: ``NAME``, or ``NAME-1``, ``NAME-2`` and so on.

    Parameters: ``basis`` is the authors' on the model ``info``.

    Raises: :class:`ExportError` for a file of no use, or what does not fit the model.
    """
    path = Path(path)
    people = read_celebbasis_file(path)
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


def _people(tensors: list[Any], are_coefficients: bool, path: Path) -> CelebBasisFile:
    if len(tensors) > MAX_PEOPLE:
        raise ExportError(f"{path.name} holds {len(tensors)} people: at most {MAX_PEOPLE} are read.")
    arrays = [_floats(tensor, path) for tensor in tensors]
    if not are_coefficients:
        if any(array.ndim != 2 for array in arrays):
            raise ExportError(f"{path.name} holds token vectors of an unknown shape: take another copy of it.")
        kept = [array for array in arrays if not _repeated(array, arrays)]
        return CelebBasisFile(vectors=tuple(_some(kept, path)), skipped=len(arrays) - len(kept))
    if any(array.ndim != 3 for array in arrays):
        raise ExportError(f"{path.name} holds coefficients of an unknown shape: take another copy of it.")
    if any(array.shape[1] != 1 for array in arrays):
        raise ExportError(f"{path.name} was trained with several heads (meta_heads), which cannot be read: use one.")
    rows = [array[:, 0] for array in arrays]
    kept = [row for row in rows if not _repeated(row, rows) and not _is_noise(row)]
    return CelebBasisFile(coefficients=tuple(_some(kept, path)), skipped=len(rows) - len(kept))


def _some(kept: list[Floats], path: Path) -> list[Floats]:
    if not kept:
        raise ExportError(f"{path.name} holds nobody who was trained: choose the file of a later step.")
    return kept


def _repeated(array: Floats, arrays: list[Floats]) -> bool:
    """Whether another place holds the same numbers: all places start from the same ones."""
    return sum(array.shape == other.shape and np.array_equal(array, other) for other in arrays) > 1


def _is_noise(coefficients: Floats) -> bool:
    """Whether these are still the standard normal numbers, of norm sqrt(K), that a place starts from; trained ones have
    norm 1 and a rest of that noise that halves every 69 steps.
    """
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
