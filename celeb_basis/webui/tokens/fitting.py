"""An identity for the checkpoint that is loaded: as it was stored, expanded anew, or refused with the reason."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from celeb_basis.basis.basis import Basis
from celeb_basis.basis.build import BasisOptions, build_bases
from celeb_basis.errors import CelebBasisError
from celeb_basis.hosts.base import ModelInfo, TextEncoder
from celeb_basis.identities.expand import check_bases, check_model, expand_identity
from celeb_basis.identities.identity import Identity
from celeb_basis.names.lists import NameList


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

    def fit(self, identity: Identity, checkpoint: Checkpoint) -> Identity:
        """``identity`` with the vectors it has on ``checkpoint``.

        Raises: :class:`CelebBasisError` with the reason why there are none.
        """
        check_model(identity, checkpoint.info)
        if identity.metadata.base_sha256 and identity.metadata.base_sha256 == checkpoint.info.sha256:
            return identity
        components = int(identity.coefficients[0].shape[1])
        refused: CelebBasisError | None = None
        for names in self._lists():
            try:
                bases = self._bases_of(checkpoint, names, components)
                check_bases(identity, bases, checkpoint.info)
            except CelebBasisError as error:
                refused = refused or error
            else:
                return expand_identity(identity, bases, checkpoint.info)
        assert refused is not None, "there is always the shipped list"
        raise refused

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
