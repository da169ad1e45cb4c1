"""The identities that prompts may name: found in the library's folder, read when used, fitted to the loaded checkpoint."""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from celeb_basis.basis import TOKENS, BasisOptions, build_bases, filtered_names
from celeb_basis.diffusion_model import ModelInfo, TextEncoder
from celeb_basis.errors import CelebBasisError, WrongModelError, printable
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
from celeb_basis.identities.identity import Identity, IdentityMetadata, load_identity
from celeb_basis.identities.library import IdentityStatus, Listing, name_key
from celeb_basis.method import Basis
from celeb_basis.names.filters import FilterOptions
from celeb_basis.names.lists import NameList, shipped_names
from celeb_basis.prompts.syntax import COMMENT, NETWORKS, bracketed_in, cut, host_word_in, likely_mistake

_log = logging.getLogger(__name__)

_BOTH = ("clip_l", "clip_g")
"""SDXL's text encoders."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A loaded checkpoint, as far as token vectors need it. Loaded again, it is another one."""

    info: ModelInfo
    encoders: Callable[[], Sequence[TextEncoder]]
    """Asked for when needed, because the host moves and drops its weights as it likes."""


class Fitting:
    """Fits identities to checkpoints: as they are stored, or expanded again. Safe in threads.

    The bases of the last checkpoint are kept.

    Args:
        lists: Answers the lists of names that bases may be made from, the shipped one and the user's own.
        cache: The folder of cached bases.
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
        """``identity`` with its vectors on ``checkpoint``.

        SDXL's refiner has one of the two text encoders, and gets that one's part of the identity.

        Raises:
            CelebBasisError: The identity does not fit the checkpoint, with the reason.
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
        """A function that raises :meth:`fit`'s error for a name and metadata, without the vectors.

        It knows errors of families and of lists of names. It checks ten thousand identities in the time of one; get a new
        function for each page.
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
    """Raise :class:`WrongModelError` for vectors of another width that no basis can expand."""
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


_KEPT = 512
"""Identities in memory; SDXL's take some 32 kB each."""

NO_CHECKPOINT = "no checkpoint is loaded: choose one."


@dataclass(frozen=True)
class _Kept:
    stamp: tuple[int, int, int]
    checkpoint: Checkpoint | None
    lists: object
    """What ``lists_key`` answered; only a refused identity is tried again with other lists."""
    status: IdentityStatus


class Registry:
    """The identities of one library, as prompts name them. There is one registry in a host; it is safe in threads.

    Ten thousand identities cost one listing of their folder. A file is read when its name is in a prompt, and again when
    it has changed.

    Args:
        folder: The library's folder.
        lists: Answers the lists of names, as for :class:`Fitting`; by default the shipped one.
        lists_key: Answers a value that changes when ``lists`` does, without reading them. Identities that did not fit are
            then tried again.
        cache: The folder of cached bases.
    """

    def __init__(
        self,
        folder: Path,
        *,
        lists: Callable[[], Sequence[NameList]] = lambda: (shipped_names(),),
        lists_key: Callable[[], object] = lambda: None,
        cache: Path | None = None,
    ) -> None:
        self.without_checkpoint = NO_CHECKPOINT
        """The reason why no identity is available while no checkpoint is loaded."""
        self.has_comments: Callable[[], bool] = lambda: True
        """Answers whether the host leaves out what follows a # in prompts."""
        self._listing = Listing(folder)
        self._fitting = Fitting(lists, cache)
        self._lists_key = lists_key
        self._lock = threading.RLock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._unavailable: dict[str, str] = {}
        self._seen: dict[str, str] = {}
        self._mistakes: tuple[object, dict[str, str]] = (None, {})

    @property
    def folder(self) -> Path:
        """The library's folder, which may be set to another one at any time."""
        return self._listing.folder

    @folder.setter
    def folder(self, folder: Path) -> None:
        with self._lock:
            if Path(folder) != self._listing.folder:
                self._listing = Listing(folder)
                self._kept.clear()
                self._unavailable.clear()
                self._seen.clear()

    def names(self) -> tuple[str, ...]:
        """All names in the library, in alphabetical order. No file is read."""
        return tuple(sorted(self._listing.names(), key=lambda name: (name.casefold(), name)))

    def known(self, text: str) -> str | None:
        """The name that ``text``, as typed between angle brackets, means; ``None`` if there is no such identity."""
        found = self._listing.find(text)
        return found and found[0]

    def find(self, text: str, checkpoint: Checkpoint | None) -> IdentityStatus | None:
        """The identity that ``text``, as typed between angle brackets, means on ``checkpoint``; ``None`` if there is none."""
        found = self._listing.find(text)
        if found is None:
            return None
        name, path = found
        if reason := _cut_by_the_host(text, comments=self.has_comments()):
            return self._noted(IdentityStatus(name, Path(path), reason=reason))
        try:
            status = os.stat(path)
        except OSError:  # deleted a moment ago
            return None
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        with self._lock:
            kept = self._kept.get(name)
            if kept is None or kept.stamp != stamp or kept.checkpoint is not checkpoint or self._lists_changed(kept):
                lists = self._lists_key()
                kept = _Kept(stamp, checkpoint, lists, self._noted(self._read(name, Path(path), checkpoint)))
                self._kept[name] = kept
                if len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(name)
            return kept.status

    def reasons(self, checkpoint: Checkpoint | None) -> Callable[[str, IdentityMetadata], str]:
        """A function that answers why ``checkpoint`` cannot use an identity, given its name and metadata; empty if it can.

        For pages of thousands of identities: it reads no file and makes no vectors. A reason that only the vectors show is
        found when the name is first used, and from then on answered here too.
        """
        check = self._fitting.check(checkpoint) if checkpoint is not None else None
        comments = self.has_comments()

        def reason(name: str, metadata: IdentityMetadata) -> str:
            if cut := _cut_by_the_host(name, comments=comments):
                return cut
            if check is None:
                return self.without_checkpoint
            try:
                check(name, metadata)
            except CelebBasisError as error:
                return str(error)
            if not metadata.family or name in self._unavailable:
                status = self.find(name, checkpoint)
                return status.reason if status is not None else ""
            return ""

        return reason

    def mentioned(self, prompts: Iterable[str], checkpoint: Checkpoint | None) -> tuple[IdentityStatus, ...]:
        """All identities named in ``prompts``, each once, in order; also those with an emphasis inside the brackets."""
        found: dict[str, IdentityStatus] = {}
        for prompt in prompts:
            for piece in cut(prompt, lambda text: self.find(text.partition(":")[0], checkpoint)):
                if not isinstance(piece, str):
                    found.setdefault(piece.name, piece)
        return tuple(found.values())

    def remember(self, name: str) -> None:
        """Note a name that is about to leave the library, so that prompts which still hold it get a comment."""
        with self._lock:
            self._seen[name_key(name)] = name

    def mistakes_in(self, prompt: str, reserved: Container[str] = NETWORKS) -> tuple[tuple[str, str], ...]:
        """Tags in ``prompt`` that no identity has but that are likely to be meant for one, each with the reason.

        Args:
            prompt: A prompt.
            reserved: Kinds of tags that are the host's own where a colon follows.
        """
        listed = self._listing.keyed()
        with self._lock:
            if self._mistakes[0] is not listed:
                self._mistakes = listed, {}
                self._seen |= {key: name for key, (name, _) in listed.items()}
            known = self._mistakes[1]
            found = {}
            for content in bracketed_in(prompt):
                name, colon, _ = content.partition(":")
                key = name_key(name.strip())
                if key in listed or (colon and name.strip() in reserved):
                    continue
                if key not in known:
                    names = {key: name for key, (name, _) in listed.items()}
                    known[key] = likely_mistake(key, names, self._seen)
                if known[key]:
                    found[f"<{content}>"] = known[key]
        return tuple(found.items())

    def _lists_changed(self, kept: _Kept) -> bool:
        return not kept.status.available and kept.lists != self._lists_key()

    def _read(self, name: str, path: Path, checkpoint: Checkpoint | None) -> IdentityStatus:
        if checkpoint is None:
            return IdentityStatus(name, path, reason=self.without_checkpoint)
        try:
            identity = self._fitting.fit(replace(load_identity(path), name=name), checkpoint)
        except CelebBasisError as error:
            return IdentityStatus(name, path, reason=str(error))
        # Hundreds of identities are kept, and thumbnails are larger than all else in them.
        identity = replace(identity, metadata=replace(identity.metadata, thumbnail=None))
        return IdentityStatus(name, path, identity)

    def _noted(self, status: IdentityStatus) -> IdentityStatus:
        """``status``, with its reason kept for the page and, the first time, written to the log."""
        with self._lock:
            if status.available:
                self._unavailable.pop(status.name, None)
            elif self._unavailable.get(status.name) != status.reason:
                self._unavailable[status.name] = status.reason
                _log.warning("<%s> is not available: %s", printable(status.name), printable(status.reason))
        return status


def _cut_by_the_host(text: str, *, comments: bool = True) -> str:
    """Why prompts cannot hold ``text`` in brackets, as it was typed; empty if they can."""
    if comments and COMMENT in text:
        return f"the host leaves out what follows {COMMENT} in a prompt, as a comment: rename the person."
    if (cutting := host_word_in(text)) is None:
        return ""
    return f"the host cuts prompts at the word {cutting}: write <{text.strip().lower()}>, or rename the person."
