"""Reads the files of the paper's own code, the CelebBasis repository (https://github.com/ygtxr1997/CelebBasis).

Its training writes ``embeddings_gs-STEP.pt``, a dictionary whose ``id_coefficients`` is a list of slots for up to ten
people, ``(E, heads, K)`` each (in another mode ``id_embeddings``, ``(E, D)`` each). Its extraction script writes one tensor
per file, ``id_coefficient_NNN.pt`` and ``id_embedding_NNN.pt``, and the basis, ``celeb_basis.pt``. All of them also exist
in half precision.

Coefficients refer to the repository's own basis and mean nothing in another one. An imported identity keeps them, and has
exactly the token vectors that the repository's code makes of them. Neither its list of names nor its basis comes with this
project: the user supplies a copy of one of them.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from celeb_basis.errors import BasisError, ExportError
from celeb_basis.exports.textual_inversion import imported_identity
from celeb_basis.exports.torch_files import read_torch_file
from celeb_basis.identities.expand import OTHERS_BASIS, new_identity
from celeb_basis.identities.identity import Floats, Identity
from celeb_basis.method import Basis, PrincipalComponents, project, repository_components

if TYPE_CHECKING:
    from celeb_basis.diffusion_model import ModelInfo, TextEncoder
    from celeb_basis.names.lists import NameList

logger = logging.getLogger(__name__)

POSITIONS = 2
"""``E``."""
COMPONENTS = 512
"""``K`` in the repository's configuration."""
MAX_HEADS = 8
"""Distinguishes coefficients, ``(E, heads, K)``, from a basis, ``(E, 1 + K, D)``: no basis has so few components."""
MAX_PEOPLE = 1000
"""Most people that are read from one file."""

WITHOUT_A_BASIS = (
    "{file} holds coefficients in the basis of the CelebBasis repository: give the celeb_basis.pt that was extracted with "
    "them, or your copy of that repository's list, wiki_names_v2.txt."
)
_SIGNS_MAY_DIFFER = (
    " The basis was rebuilt from a list of names, with the signs that this machine's decomposition gives its components. On "
    "another machine, or with another number of threads, the signs of about half of the components may differ: if the file "
    "was made elsewhere, the face may be a different one. With the celeb_basis.pt that was extracted with the file, the face "
    "is always the right one."
)
_BASIS_VERSION = b"celeb-basis authors 1"
_MAX_TOKENS = 75
"""The repository's tokenizer truncates a name to the length of a prompt."""


@dataclass(frozen=True)
class CelebBasisFile:
    """The people in one file of the repository. One of the two tuples is empty."""

    coefficients: tuple[Floats, ...] = ()
    """``(E, K)`` each."""
    vectors: tuple[Floats, ...] = ()
    """``(E, D)`` each."""
    skipped: int = 0
    """Number of slots that were never trained and still hold their initial noise."""

    @property
    def components(self) -> int:
        """``K`` of the coefficients; the repository's own number if there are none."""
        return int(self.coefficients[0].shape[1]) if self.coefficients else COMPONENTS


def read_celebbasis_file(path: Path) -> CelebBasisFile:
    """Read ``embeddings_gs-STEP.pt``, ``id_coefficient_NNN.pt`` or ``id_embedding_NNN.pt``. Nothing in it is executed.

    Raises:
        ExportError: The file is damaged, malicious, of another format, or contains no trained person.
        FileError: The file cannot be read.
    """
    path = Path(path)
    content = read_torch_file(path)
    if isinstance(content, dict):
        for key in ("id_coefficients", "id_embeddings"):
            if isinstance(content.get(key), list) and content[key]:
                return _people(content[key], key == "id_coefficients", path)
        if "meta_id_net" in content:
            raise ExportError(
                f"{path.name} contains the network of the CelebBasis repository and no coefficients: save it again with "
                "test_mode 'coefficient', or extract the coefficients with the repository's script."
            )
    elif isinstance(content, np.ndarray) and content.ndim == 3:
        if content.shape[1] > MAX_HEADS:
            raise ExportError(
                f"{path.name} is the basis of the CelebBasis repository, not a person: import it together with a "
                "coefficient file."
            )
        return _people([content], True, path)
    elif isinstance(content, np.ndarray) and content.ndim == 2:
        return _people([content], False, path)
    raise _not_a_coefficient_file(path)


def import_celebbasis_file(
    path: Path, basis: Basis, info: ModelInfo, *, name: str | None = None
) -> tuple[Identity, ...]:
    """Read the people in one of the repository's files as identities.

    Args:
        path: The file.
        basis: The repository's basis, from :func:`read_celebbasis_basis` or :func:`rebuild_celebbasis_basis`.
        info: The model. It has to be of Stable Diffusion 1.
        name: Name of the identity; the file's stem by default. Several people are called ``NAME-1``, ``NAME-2`` and so on.

    Raises:
        ExportError: The file is not usable, or does not fit the basis or the model.
        FileError: The file cannot be read.
    """
    path = Path(path)
    people = read_celebbasis_file(path)
    if info.family != "sd1":
        raise ExportError(
            "Files of the CelebBasis repository are for Stable Diffusion 1, "
            f"but {info.name} is of {info.family}: choose a model of sd1."
        )
    count = len(people.coefficients) + len(people.vectors)
    stem = name or path.stem
    names = [stem] if count == 1 else [f"{stem}-{number}" for number in range(1, count + 1)]
    if people.skipped:
        logger.info("%s: %d slots were never trained and are left out.", path.name, people.skipped)
    if people.vectors:
        return tuple(_from_vectors(n, v, basis, info, path) for n, v in zip(names, people.vectors, strict=True))
    return tuple(_from_coefficients(n, c, basis, info, path) for n, c in zip(names, people.coefficients, strict=True))


# The repository's basis: read from its celeb_basis.pt, or rebuilt from its list of names.


def read_celebbasis_basis(path: Path, encoder: str = "clip_l") -> Basis:
    """Read the repository's ``celeb_basis.pt``, ``(E, 1 + K, D)`` with the mean in row 0. The basis has no names.

    Args:
        path: The file.
        encoder: Name of the text encoder it belongs to.

    Raises:
        ExportError: The file is damaged, malicious, or not a basis.
        FileError: The file cannot be read.
    """
    path = Path(path)
    content = read_torch_file(path)
    if not isinstance(content, np.ndarray) or content.ndim != 3 or content.shape[1] <= MAX_HEADS:
        raise ExportError(
            f"{path.name} is not the basis of the CelebBasis repository: choose the celeb_basis.pt that its extraction wrote."
        )
    if content.dtype.kind != "f" or not content.size or not np.isfinite(content).all():
        raise ExportError(f"{path.name} contains NaN or no numbers: extract the basis again.")
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


def rebuild_celebbasis_basis(encoder: TextEncoder, names: NameList, components: int = COMPONENTS) -> Basis:
    """Build the basis of ``names`` as the repository's code does, to obtain the same numbers.

    Its code takes the distinct lines of the list, sorted. The first token of each name goes into one column and the second
    token into another; a name of one token is in the first column only. Each column gives its mean, and the right singular
    vectors of its centered rows, in float32, in the order and with the signs that the decomposition returns. Repeated
    tokens stay, although the repository has a setting ``rm_repeats``.

    The repository builds the basis again at every start, so its files depend on these signs, which rounding decides: with
    another version of torch, or another number of threads, the signs of about half of the components can differ. Mean and
    span are the same everywhere, but coefficients are certain to mean the same face only with the ``celeb_basis.pt`` of the
    machine that made them.

    Args:
        encoder: The model's text encoder.
        names: The repository's list of names.
        components: ``K``.

    Returns:
        The basis. Its ``names`` are the distinct ones of at least two tokens.

    Raises:
        BasisError: The names span fewer than ``components`` dimensions.
    """
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
                f"{components} components: use the CelebBasis repository's own list, and a model of the kind that the file "
                "was made with."
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


def _content_hash(mean: torch.Tensor, components: torch.Tensor) -> str:
    digest = hashlib.sha256(_BASIS_VERSION)
    digest.update(repr(tuple(components.shape)).encode())
    digest.update(mean.contiguous().numpy().tobytes())
    digest.update(components.contiguous().numpy().tobytes())
    return digest.hexdigest()


# Identities of the people in a file.


def _from_vectors(name: str, vectors: Floats, basis: Basis, info: ModelInfo, path: Path) -> Identity:
    if vectors.shape != (basis.positions, basis.width):
        raise ExportError(
            f"{path.name} contains token vectors of {_shape(vectors)}, but {info.name} needs "
            f"{basis.positions} x {basis.width}: choose a model of the family it was made for."
        )
    return imported_identity(name, [torch.from_numpy(vectors.copy())], [basis], info, origin=path.name)


def _from_coefficients(name: str, coefficients: Floats, basis: Basis, info: ModelInfo, path: Path) -> Identity:
    if coefficients.shape != (basis.positions, basis.size):
        raise ExportError(
            f"{path.name} contains {_shape(coefficients)} coefficients, but the basis is for "
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
            f"Imported from {path.name}, in the basis of the CelebBasis repository, on {info.name}. On other checkpoints its "
            "token vectors are used as they are." + (_SIGNS_MAY_DIFFER if basis.names else "")
        ),
    )


def _shape(array: Floats) -> str:
    return " x ".join(map(str, array.shape))


# The slots of a file.


def _people(tensors: list[Any], are_coefficients: bool, path: Path) -> CelebBasisFile:
    if len(tensors) > MAX_PEOPLE:
        raise ExportError(f"{path.name} contains {len(tensors)} people, more than {MAX_PEOPLE}: choose another file.")
    arrays = [_floats(tensor, path) for tensor in tensors]
    if not are_coefficients:
        if any(array.ndim != 2 for array in arrays):
            raise ExportError(f"{path.name} contains token vectors of an unknown shape: use another copy of it.")
        trained = _unrepeated(arrays)
        return CelebBasisFile(vectors=_at_least_one(trained, path), skipped=len(arrays) - len(trained))
    if any(array.ndim != 3 for array in arrays):
        raise ExportError(f"{path.name} contains coefficients of an unknown shape: use another copy of it.")
    if any(array.shape[1] != 1 for array in arrays):
        raise ExportError(f"{path.name} was trained with several heads, which cannot be read: train with meta_heads 1.")
    rows = [array[:, 0] for array in arrays]
    trained = [row for row in _unrepeated(rows) if not _is_noise(row)]
    return CelebBasisFile(coefficients=_at_least_one(trained, path), skipped=len(rows) - len(trained))


def _floats(tensor: Any, path: Path) -> Floats:
    if not isinstance(tensor, np.ndarray) or tensor.dtype.kind != "f" or not tensor.size:
        raise _not_a_coefficient_file(path)
    with np.errstate(over="ignore"):  # numbers too large for float32 become infinite, which is refused below
        array: Floats = tensor.astype(np.float32)
    if not np.isfinite(array).all():
        raise ExportError(f"{path.name} contains NaN or infinity: use the file of an earlier step.")
    return array


def _unrepeated(arrays: list[Floats]) -> list[Floats]:
    """Those whose numbers no other slot holds: all slots are initialized with the same ones."""
    # Zero is added because it makes negative zero positive: they are the same number.
    keys = [(array.shape, hashlib.sha256((array + 0).tobytes()).digest()) for array in arrays]
    counts = Counter(keys)
    return [array for array, key in zip(arrays, keys, strict=True) if counts[key] == 1]


def _is_noise(coefficients: Floats) -> bool:
    """Whether these are still the standard normal numbers, of norm sqrt(K), that a slot is initialized with.

    Trained coefficients have norm 1, plus what remains of that noise, which halves every 69 steps.
    """
    return bool(np.linalg.norm(coefficients, axis=1).min() > 0.5 * np.sqrt(coefficients.shape[1]) > 1)


def _at_least_one(trained: list[Floats], path: Path) -> tuple[Floats, ...]:
    if not trained:
        raise ExportError(f"{path.name} contains no trained person: choose the file of a later step.")
    return tuple(trained)


def _not_a_coefficient_file(path: Path) -> ExportError:
    return ExportError(
        f"{path.name} is not a coefficient file of the CelebBasis repository: choose its embeddings_gs-STEP.pt."
    )
