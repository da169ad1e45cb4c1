"""The page "Celeb Basis" among the host's Extra Networks: a card for each identity of the library.

The host's own code renders the page. It reads a thumbnail when the browser asks for it, by its own route for pictures inside
files, so that no path of the library is sent to the browser.
"""

from __future__ import annotations

import base64
import functools
import html
import io
import json
import logging
import os
import threading
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from markupsafe import Markup
from PIL import Image

from celeb_basis.basis import load_cached
from celeb_basis.errors import CelebBasisError
from celeb_basis.files import checked_name
from celeb_basis.hosts.a1111.modules import host_module
from celeb_basis.identities.expand import tensors_of
from celeb_basis.identities.identity import Identity, IdentityMetadata, load_identity, load_without_thumbnail
from celeb_basis.identities.library import Listing
from celeb_basis.method import Basis
from celeb_basis.prompts.registry import Registry
from celeb_basis.templating import date_text

if TYPE_CHECKING:
    from celeb_basis.prompts.registry import Checkpoint

_log = logging.getLogger(__name__)

TITLE = "Celeb Basis"
PAGE = "celeb_basis"

_COVER = "ssmd_cover_images"
"""The key under which the host looks for pictures inside a file."""
_LARGEST_SIDE = 4096
_NOBODY = "<div class='nocards'><h1>Nobody yet: learn or invent a person on the tab Celeb Basis.</h1></div>"

_Stamp = tuple[int, int, int]
"""Modification time in nanoseconds, size and inode: another stamp is another file."""


# An index of the library


@dataclass(frozen=True)
class IndexedIdentity:
    """What an index keeps of one identity file.

    An :class:`~celeb_basis.identities.library.IdentityStatus` holds the identity itself; of ten thousand identities, an
    index has no room for coefficients, token vectors and thumbnails.
    """

    name: str
    path: Path
    stamp: _Stamp
    problem: str = ""
    """Why the file cannot be read; else empty, and the rest is known."""
    content_hash: str = ""
    """Hash of the vectors in the file, whichever checkpoint is loaded."""
    metadata: IdentityMetadata | None = None
    """Always without the thumbnail."""
    has_thumbnail: bool = False
    distance: float | None = None
    """To the mean celebrity, in units of the celebrities' own distance; ``None`` where the basis is not cached here."""


class IdentityIndex:
    """Reads identity files once: again only when the modification time, size or inode changed. Safe in threads.

    Args:
        bases: The folder of cached bases, for distances; without it there are none.
    """

    def __init__(self, bases: Path | None = None) -> None:
        self._bases = bases
        self._lock = threading.Lock()
        self._known: dict[str, IndexedIdentity] = {}

    def of(self, files: Iterable[tuple[str, Path]]) -> tuple[IndexedIdentity, ...]:
        """The identities of names and their files, in order; missing files are left out."""
        found: list[IndexedIdentity] = []
        bases: dict[str, Basis | None] = {}
        for name, path in files:
            try:
                status = os.stat(path)
            except OSError:
                continue
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            with self._lock:
                known = self._known.get(str(path))
            if known is None or known.stamp != stamp or known.name != name:
                known = self._read(name, path, stamp, bases)
                if known.problem and not path.exists():  # deleted just now
                    continue
                with self._lock:
                    self._known[str(path)] = known
            found.append(known)
        return tuple(found)

    def keep_only(self, paths: Iterable[Path]) -> None:
        """Drop all other files."""
        kept = {str(path) for path in paths}
        with self._lock:
            self._known = {path: known for path, known in self._known.items() if path in kept}

    def _read(self, name: str, path: Path, stamp: _Stamp, bases: dict[str, Basis | None]) -> IndexedIdentity:
        try:
            checked_name(name)
            identity, has_thumbnail = load_without_thumbnail(path)
        except CelebBasisError as error:
            return IndexedIdentity(name, path, stamp, problem=str(error))
        metadata = identity.metadata
        if metadata.thumbnail is not None:
            metadata = replace(metadata, thumbnail=None)
        distance = self._distance(identity, bases)
        return IndexedIdentity(name, path, stamp, "", identity.content_hash, metadata, has_thumbnail, distance)

    def _distance(self, identity: Identity, bases: dict[str, Basis | None]) -> float | None:
        distances = []
        for key, coefficients in zip(identity.metadata.basis_sha256, tensors_of(identity.coefficients), strict=False):
            if key not in bases:
                bases[key] = load_cached(self._bases, key) if self._bases is not None and key else None
            basis = bases[key]
            if basis is None or tuple(coefficients.shape) != (basis.positions, basis.size):
                return None
            distances.append(basis.distance(coefficients))
        return sum(distances) / len(distances) if distances else None


def thumbnail_of(path: Path) -> bytes | None:
    """The thumbnail in the identity file ``path``; ``None`` if there is none, or the file is broken."""
    try:
        return load_identity(path).metadata.thumbnail
    except CelebBasisError:
        return None


# The content of cards


class Tokens(Protocol):
    """What is needed of :class:`celeb_basis.hosts.a1111.tokens.Tokens`."""

    registry: Registry

    @property
    def checkpoint(self) -> Callable[[], Checkpoint | None]:
        """Returns the loaded checkpoint, without loading one."""


class Cards:
    """The identities of the library, and the texts of their cards. Independent of a host.

    Args:
        tokens: The names in the host's prompts.
        bases: The folder of cached bases, for distances.
    """

    def __init__(self, tokens: Tokens, bases: Path | None = None) -> None:
        self._tokens = tokens
        self._index = IdentityIndex(bases)

    @property
    def folder(self) -> Path:
        """The library's folder."""
        return self._tokens.registry.folder

    def all(self) -> tuple[IndexedIdentity, ...]:
        """All identities in alphabetical order, from the folder as it is now. Files that no prompt can name are left out."""
        files = [(name, path) for name, path in Listing(self.folder).files() if _is_usable(name)]
        self._index.keep_only(path for _, path in files)
        return self._index.of(files)

    def one(self, name: str) -> IndexedIdentity | None:
        """The identity called ``name``, or ``None``."""
        found = Listing(self.folder).find(name)
        identities = self._index.of([(found[0], Path(found[1]))]) if found and _is_usable(found[0]) else ()
        return identities[0] if identities else None

    def reasons(self) -> Callable[[IndexedIdentity], str]:
        """A function that answers why prompts cannot use an identity; empty if they can, or if no checkpoint is loaded.

        For one page; see :meth:`Registry.reasons`.
        """
        try:
            checkpoint = self._tokens.checkpoint()
        except CelebBasisError as error:
            unusable = str(error)
            return lambda identity: identity.problem or unusable
        reason = self._tokens.registry.reasons(checkpoint) if checkpoint is not None else None

        def reason_of(identity: IndexedIdentity) -> str:
            if identity.problem or identity.metadata is None or reason is None:
                return identity.problem
            return reason(identity.name, identity.metadata)

        return reason_of

    def reason(self, identity: IndexedIdentity) -> str:
        """Why prompts cannot use this identity, as :meth:`reasons` answers."""
        return self.reasons()(identity)

    def description(self, identity: IndexedIdentity, reason: str) -> str:
        """The card's text: the ``reason``, if there is one, then the model, the date and the distance."""
        lines = [f"⚠ Not available: {reason}"] if reason else []
        if (metadata := identity.metadata) is not None:
            model = metadata.learned_on or metadata.base_model or "an unknown model"
            relation = "for" if metadata.source == "imported" else "on"
            lines.append(f"{metadata.source} {relation} {model}" + (f" ({metadata.family})" if metadata.family else ""))
            lines.append(date_text(metadata.created, hour=False))
            if identity.distance is not None:
                lines.append(f"distance {identity.distance:.2f} (celebrities: 1)")
        return "\n".join(lines)


_SHOWN = ("base_model", "family", "learned_on", "face_model", "steps", "source", "created", "consent", "notes")
"""Fields of :class:`IdentityMetadata` that a card's dialog shows."""


class CardMetadata(Mapping[str, Any]):
    """What the host shows of a card's file. The thumbnail is read at the moment when the host asks for it."""

    def __init__(self, identity: IndexedIdentity) -> None:
        self._identity = identity
        self._shown: dict[str, Any] = {"name": identity.name, "hash": identity.content_hash}
        metadata = identity.metadata
        if metadata is None:
            self._shown["problem"] = identity.problem
        else:
            self._shown |= {key: getattr(metadata, key) for key in _SHOWN if getattr(metadata, key) not in ("", 0)}
            self._shown |= {"distance": round(identity.distance, 3)} if identity.distance is not None else {}
            self._shown |= {f"settings/{key}": _flat(value) for key, value in metadata.settings.items()}

    def __getitem__(self, key: str) -> Any:
        if key == _COVER:
            return json.dumps(self._pictures())
        return self._shown[key]

    def __iter__(self) -> Iterator[str]:
        return iter((*self._shown, _COVER))

    def __len__(self) -> int:
        return len(self._shown) + 1

    def _pictures(self) -> list[str]:
        thumbnail = thumbnail_of(self._identity.path) if self._identity.has_thumbnail else None
        if thumbnail is None or not _is_of_sane_size(thumbnail):
            return []
        return [base64.b64encode(thumbnail).decode("ascii")]


# The page inside the host


def add_page(tokens: Tokens, bases: Path | None = None) -> None:
    """Add the page to those that the host is about to build. Called before each of the host's pages.

    A fork whose pages are of another kind, such as SD.Next, gets none.
    """
    networks = host_module("ui_extra_networks")
    if hasattr(networks.ExtraNetworksPage, "create_card_view_html"):
        networks.register_page(page_of(Cards(tokens, bases)))


def page_of(cards: Cards) -> Any:
    """The host's page object for ``cards``. Only inside the host."""
    return _page_class()(cards)


@functools.cache
def _page_class() -> Any:
    networks: Any = host_module("ui_extra_networks")
    shared: Any = host_module("shared")

    class CelebBasisPage(networks.ExtraNetworksPage):  # type: ignore[misc]
        """The host's base class calls these methods for every page of cards."""

        def __init__(self, cards: Cards) -> None:
            super().__init__(TITLE)
            # The page's script asks for metadata by the tab's name, the host looks it up by this one.
            self.name = PAGE
            self.allow_negative_prompt = True
            self.cards = cards
            self.places: list[tuple[Any, str, int]] = []  # the host's record of a tab's pages, the tab, our place in it

        def create_user_metadata_editor(self, ui: Any, tabname: str) -> Any:
            # The host has just put this page's HTML at the end of its record.
            self.places.append((ui, tabname, len(ui.pages) - 1))
            return super().create_user_metadata_editor(ui, tabname)

        def list_items(self) -> Iterator[dict[str, Any]]:
            # The host asked for them once, before another data folder was chosen.
            networks.allowed_dirs.update(self.allowed_directories_for_previews())
            reason = self.cards.reasons()
            for index, identity in enumerate(self.cards.all()):
                yield self._item(identity, index, reason(identity))

        def create_item(self, name: str, index: int | None = None, enable_filter: bool = True) -> Any:
            del enable_filter
            identity = self.cards.one(name)
            return None if identity is None else self._item(identity, index, self.cards.reason(identity))

        def allowed_directories_for_previews(self) -> list[str]:
            return [str(self.cards.folder)]

        def create_card_view_html(self, tabname: str, *, none_message: Any) -> Any:
            return super().create_card_view_html(tabname, none_message=none_message or _NOBODY)

        def read_user_metadata(self, item: dict[str, Any], use_cache: bool = True) -> None:
            description = item["description"]
            try:
                super().read_user_metadata(item, use_cache)
                written = item["user_metadata"].get("description")
            except AttributeError:  # the sidecar file holds something else
                item["user_metadata"], written = {}, None
            # The user cannot edit our description; it stays under what the user wrote.
            item["user_metadata"].setdefault("description", "")
            item["description"] = "\n".join(filter(None, (str(written or ""), description)))

        def create_item_html(self, tabname: str, item: dict[str, Any], template: str | None = None) -> Any:
            token = json.dumps(f"<{item['name']}>")
            shown = item | {
                "onclick": html.escape(f"celebBasisCardClicked({json.dumps(tabname)}, {token});"),
                # The host puts it into an attribute as it is.
                "filename": html.escape(item["filename"]),
            }
            made = super().create_item_html(tabname, shown, template)
            if isinstance(made, str) and item["unavailable"]:
                made = made.replace('class="card"', f'class="card celeb-basis-unavailable" {_title(item)}', 1)
            return made

        def _item(self, identity: IndexedIdentity, index: int | None, reason: str) -> dict[str, Any]:
            file = str(identity.path)
            stem = os.path.splitext(file)[0]
            description = self.cards.description(identity, reason)
            if shared.opts.extra_networks_card_description_is_html:
                description = html.escape(description)
            metadata = identity.metadata
            terms = [self.search_terms_from_path(file), f"<{identity.name}>", identity.content_hash]
            terms += [metadata.base_model, metadata.family, metadata.source] if metadata else []
            return {
                "name": identity.name,
                "filename": file,
                "shorthash": identity.content_hash,
                "preview": self.find_preview(stem) or self._thumbnail_url(identity),
                "description": description,
                "search_terms": [html.escape(term) for term in terms if term],
                "metadata": CardMetadata(identity),
                "prompt": networks.quote_js(f"<{identity.name}>"),
                "local_preview": f"{stem}.preview.{shared.opts.samples_format}",
                "sort_keys": {"default": index, **self.get_sort_keys(file)},
                "unavailable": reason,
            }

        def _thumbnail_url(self, identity: IndexedIdentity) -> str | None:
            if not identity.has_thumbnail:
                return None
            query = {"page": self.name, "item": identity.name, "mtime": identity.stamp[0]}
            return f"./sd_extra_networks/cover-images?{urllib.parse.urlencode(query)}"

    return CelebBasisPage


def _title(item: dict[str, Any]) -> str:
    """Attributes with the whole reason, for the mouse and for screen readers: the host cuts long descriptions."""
    attributes = Markup('title="{reason}" aria-label="{name}: {reason}"')
    return str(attributes.format(name=item["name"], reason=item["unavailable"]))


def _is_usable(name: str) -> bool:
    try:
        checked_name(name)
    except CelebBasisError as error:
        _log.warning("There is no card for the file %r: %s", name, error)
        return False
    return True


def _is_of_sane_size(picture: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(picture)) as image:
            return bool(max(image.size) <= _LARGEST_SIDE)
    except Exception:  # Pillow raises whatever its plugins raise
        return False


def _flat(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool)) else json.dumps(value, ensure_ascii=False)
