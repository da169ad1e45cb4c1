"""An identity for the checkpoint that is loaded: as it was stored, expanded anew, or refused with the reason."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from celeb_basis.basis.basis import Basis
from celeb_basis.basis.build import TOKENS, BasisOptions, build_bases
from celeb_basis.basis.tokenized import filtered_names
from celeb_basis.errors import CelebBasisError, WrongModelError
from celeb_basis.hosts.base import ModelInfo, TextEncoder
from celeb_basis.identities.expand import (
    check_bases,
    check_family,
    check_model,
    check_names,
    expand_identity,
    hash_of_names,
    names_hash,
    stands_for_itself,
)
from celeb_basis.identities.identity import Identity, IdentityMetadata
from celeb_basis.names.filters import FilterOptions
from celeb_basis.names.lists import NameList

_BOTH = ("clip_l", "clip_g")
"""SDXL's text encoders."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A loaded checkpoint, as far as its tokens' vectors go. A checkpoint loaded anew is a new one."""

    info: ModelInfo
    encoders: Callable[[], Sequence[TextEncoder]]
    """Asked for when they are needed: the host moves and drops its weights as it likes."""


class Fitting:
    """Fits identities to checkpoints, keeping the last checkpoint's bases. Safe in threads.

    Parameters: ``lists`` gives the lists of names that bases may be made from, the shipped one and the user's own;
    ``cache`` is the folder of bases built before.
    """

    def __init__(self, lists: Callable[[], Sequence[NameList]], cache: Path | None) -> None:
        self._lists = lists
        self._cache = cache
        self._lock = threading.Lock()
        self._checkpoint: Checkpoint | None = None
        self._bases: dict[tuple[str, int], tuple[Basis, ...]] = {}
        self._names_lock = threading.Lock()
        self._names: tuple[Checkpoint | None, dict[str, str]] = (None, {})

    def fit(self, identity: Identity, checkpoint: Checkpoint) -> Identity:
        """``identity`` with the vectors it has on ``checkpoint``.

        SDXL's refiner has one of the two text encoders: it gets that one's part of the person.

        Raises: :class:`CelebBasisError` with the reason why there are none.
        """
        check_model(identity, checkpoint.info)
        if _fits_as_it_is(identity.metadata, checkpoint):
            _check_widths(identity, checkpoint)
            return identity
        components = int(identity.coefficients[0].shape[1])
        refused: CelebBasisError | None = None
        for names in self._lists():
            try:
                bases = self._bases_of(checkpoint, names, components)
                fitting = _part_for(identity, bases, checkpoint.info)
                check_bases(fitting, bases, checkpoint.info)
            except CelebBasisError as error:
                refused = refused or error
            else:
                return expand_identity(fitting, bases, checkpoint.info)
        assert refused is not None, "there is always the shipped list"
        raise refused

    def check(self, checkpoint: Checkpoint) -> Callable[[str, IdentityMetadata], None]:
        """What raises :meth:`fit`'s error for who is called so and says so of itself, as far as that can be told without
        the vectors: of families and of lists of names. Ten thousand are checked in the time of one; ask anew for each page.
        """
        known: list[frozenset[str] | CelebBasisError] = []

        def check(name: str, metadata: IdentityMetadata) -> None:
            check_family(name, metadata, checkpoint.info)
            if _fits_as_it_is(metadata, checkpoint) or not metadata.names_sha256:
                return
            if not known:
                try:
                    known.append(frozenset(self._names_of(checkpoint, names) for names in self._lists()))
                except CelebBasisError as error:
                    known.append(error)
            if isinstance(known[0], CelebBasisError):
                raise known[0]
            check_names(name, metadata, known[0], checkpoint.info)

        return check

    def _names_of(self, checkpoint: Checkpoint, names: NameList) -> str:
        """The hash of the names that bases of ``checkpoint`` would be made from, without making any."""
        with self._names_lock:
            if self._names[0] is not checkpoint:
                self._names = (checkpoint, {})
            known = self._names[1]
            if names.sha256 not in known:
                used = {
                    encoder.name: filtered_names(encoder, names, FilterOptions(), TOKENS, self._cache).names
                    for encoder in checkpoint.encoders()
                }
                if not used:
                    raise WrongModelError(f"{checkpoint.info.name} has no text encoders: choose another checkpoint.")
                wanted = _BOTH if checkpoint.info.family == "sdxl" else used
                # SDXL's two text encoders cut words alike.
                known[names.sha256] = hash_of_names(
                    (encoder, names.sha256, used.get(encoder, next(iter(used.values())))) for encoder in wanted
                )
            return known[names.sha256]

    def _bases_of(self, checkpoint: Checkpoint, names: NameList, components: int) -> tuple[Basis, ...]:
        with self._lock:
            if self._checkpoint is not checkpoint:
                self._checkpoint, self._bases = checkpoint, {}
            key = (names.sha256, components)
            if key not in self._bases:
                options = BasisOptions(components=components)
                built = build_bases(checkpoint.encoders(), names, options, cache=self._cache)
                self._bases[key] = tuple(one.basis for one in built)
            return self._bases[key]


def _fits_as_it_is(metadata: IdentityMetadata, checkpoint: Checkpoint) -> bool:
    same = bool(metadata.base_sha256) and metadata.base_sha256 == checkpoint.info.sha256
    return same or stands_for_itself(metadata)


def _check_widths(identity: Identity, checkpoint: Checkpoint) -> None:
    """Raise :class:`WrongModelError` for who stands for themselves with vectors of another width."""
    if not stands_for_itself(identity.metadata):
        return
    widths = {encoder.name: encoder.width for encoder in checkpoint.encoders()}
    for name, vectors in zip(identity.encoders, identity.vectors, strict=True):
        if widths.get(name) != vectors.shape[1]:
            raise WrongModelError(
                f"{identity.name!r} has token vectors of {vectors.shape[1]} numbers for {name}, which {checkpoint.info.name} "
                "does not take: import the person's file again on this checkpoint."
            )


def _part_for(identity: Identity, bases: Sequence[Basis], info: ModelInfo) -> Identity:
    """``identity`` in the text encoders of ``bases``, if they are some of SDXL's but not all."""
    encoders = tuple(basis.encoder for basis in bases)
    if identity.encoders != _BOTH or encoders == _BOTH or not set(encoders) < set(_BOTH):
        return identity
    same_names = [replace(bases[0], encoder=encoder) for encoder in _BOTH]
    check_names(identity.name, identity.metadata, [names_hash(same_names)], info)
    places = [_BOTH.index(encoder) for encoder in encoders]
    return replace(
        identity,
        encoders=encoders,
        coefficients=tuple(identity.coefficients[place] for place in places),
        vectors=tuple(identity.vectors[place] for place in places),
        metadata=replace(identity.metadata, basis_sha256=(), names_sha256=names_hash(bases)),
    )
