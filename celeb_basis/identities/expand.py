"""From coefficients to token vectors: making an identity, and expanding it for another checkpoint of its family."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

from celeb_basis.diffusion_model import ModelInfo
from celeb_basis.errors import BasisError, WrongModelError
from celeb_basis.identities.identity import Floats, Identity, IdentityMetadata
from celeb_basis.method import Basis

OTHERS_BASIS = "authors"
"""``settings["basis"]`` of an identity whose coefficients belong to a basis that cannot be made here."""


def new_identity(
    name: str,
    coefficients: Sequence[torch.Tensor],
    bases: Sequence[Basis],
    info: ModelInfo,
    **details: Any,
) -> Identity:
    """Make an identity of coefficients on a checkpoint.

    The vectors are ``basis.expand`` of each text encoder's coefficients and of nothing else, so that the same coefficients
    and basis always give the same bits.

    Args:
        name: What the identity is called.
        coefficients: ``(E, K)``, one tensor for each of ``bases``.
        bases: The checkpoint's bases, one for each text encoder.
        info: The checkpoint.
        **details: Further fields of :class:`IdentityMetadata`.

    Raises:
        BasisError: Coefficients and bases do not fit.
        IdentityError: The coefficients hold NaN, or the name is unusable.
    """
    if len(coefficients) != len(bases) or not bases:
        raise BasisError(
            f"There are coefficients for {len(coefficients)} text encoders and {len(bases)} bases: give one basis for each."
        )
    given = [tensor.detach().to("cpu").float().contiguous() for tensor in coefficients]
    metadata = IdentityMetadata(
        base_model=info.name,
        family=info.family,
        base_sha256=info.sha256,
        basis_sha256=tuple(basis.sha256 for basis in bases),
        names_sha256=names_hash(bases),
        **details,
    )
    return Identity(
        name=name,
        encoders=tuple(basis.encoder for basis in bases),
        coefficients=tuple(tensor.numpy() for tensor in given),
        vectors=tuple(basis.expand(tensor).numpy() for basis, tensor in zip(bases, given, strict=True)),
        metadata=metadata,
    )


def expand_identity(identity: Identity, bases: Sequence[Basis], info: ModelInfo) -> Identity:
    """``identity`` for another checkpoint of its family: the same coefficients in that checkpoint's own ``bases``.

    With the bases that it was made with, the vectors are the same bit for bit.

    Raises:
        WrongModelError: The family, the text encoders, the number of components or the list of names is another.
    """
    check_model(identity, info)
    check_bases(identity, bases, info)
    old = identity.metadata
    details = {
        key: getattr(old, key)
        for key in ("face_model", "steps", "settings", "consent", "notes", "source", "created", "thumbnail")
    }
    expanded = new_identity(identity.name, tensors_of(identity.coefficients), bases, info, **details)
    elsewhere = old.learned_on or (old.base_model if old.base_sha256 != info.sha256 else "")
    return replace(expanded, metadata=replace(expanded.metadata, learned_on=elsewhere))


def stands_for_itself(metadata: IdentityMetadata) -> bool:
    """Whether the coefficients belong to a basis that cannot be made here, such as the CelebBasis repository's.

    No other basis can expand them, so the token vectors are used unchanged on every checkpoint of the family, as those of
    a textual inversion are.
    """
    return metadata.settings.get("basis") == OTHERS_BASIS


def check_model(identity: Identity, info: ModelInfo) -> None:
    """Raise :class:`WrongModelError` unless the checkpoint ``info`` is of the identity's family.

    An identity without a family (an import of unknown origin) fits any; its shapes decide.
    """
    check_family(identity.name, identity.metadata, info)


def check_family(name: str, metadata: IdentityMetadata, info: ModelInfo) -> None:
    """:func:`check_model` by name and metadata alone."""
    family = metadata.family
    if family and family != info.family:
        raise WrongModelError(
            f"{name!r} was made for {_model(metadata)} ({family}), but {info.name} is {info.family}: "
            f"use a checkpoint of {family}, or learn the person again on {info.name}."
        )


def check_bases(identity: Identity, bases: Sequence[Basis], info: ModelInfo) -> None:
    """Raise :class:`WrongModelError` unless ``bases`` are of the kind that ``identity`` was made with."""
    if stands_for_itself(identity.metadata):
        raise WrongModelError(
            f"The coefficients of {identity.name!r} are in the basis of the CelebBasis repository: it can be used and "
            "exported, but not blended with people of another basis."
        )
    names = tuple(basis.encoder for basis in bases)
    if names != identity.encoders:
        raise WrongModelError(
            f"{identity.name!r} was made for {_model(identity.metadata)} with the text encoders "
            f"{', '.join(identity.encoders)}, but {info.name} has {', '.join(names) or 'none'}: "
            "use a checkpoint of the same family."
        )
    for basis, array in zip(bases, identity.coefficients, strict=True):
        if tuple(array.shape) != (basis.positions, basis.size):
            raise WrongModelError(
                f"{identity.name!r} of {_model(identity.metadata)} has {array.shape[0]} x {array.shape[1]} coefficients for "
                f"{basis.encoder}, but the basis of {info.name} has {basis.positions} x {basis.size}: "
                f"make the basis with {array.shape[1]} components."
            )
    check_names(identity.name, identity.metadata, [names_hash(bases)], info)


def check_names(name: str, metadata: IdentityMetadata, known: Container[str], info: ModelInfo) -> None:
    """Raise :class:`WrongModelError` unless the hash of the identity's list of names is one of ``known``.

    An identity whose names are unknown (an import) fits any list.
    """
    if metadata.names_sha256 and metadata.names_sha256 not in known:
        raise WrongModelError(
            f"{name!r} was learned on {_model(metadata)} with another names list, or names filtered otherwise, "
            f"than the basis of {info.name}: give the same list and the same filters."
        )


def names_hash(bases: Sequence[Basis]) -> str:
    """Hash of the names that ``bases`` were made from: of the list that was given, and of the names used from it.

    Coefficients have no meaning in a basis of other names, and filters (a face check, a count of tokens) change the names.
    """
    return hash_of_names((basis.encoder, basis.names_sha256, basis.names) for basis in bases)


def hash_of_names(encoders: Iterable[tuple[str, str, Sequence[str]]]) -> str:
    """:func:`names_hash` without the bases, from each text encoder's name, its list's hash and the names used."""
    digest = hashlib.sha256()
    for encoder, list_sha256, names in encoders:
        digest.update(f"{encoder}|{list_sha256}|{len(names)}|".encode())
        digest.update("\n".join(names).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def tensors_of(arrays: Sequence[Floats]) -> list[torch.Tensor]:
    """New tensors with the arrays' values."""
    return [torch.tensor(array) for array in arrays]


def _model(metadata: IdentityMetadata) -> str:
    return metadata.base_model or "an unknown model"
