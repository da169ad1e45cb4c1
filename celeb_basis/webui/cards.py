"""The page "Celeb Basis" among the host's Extra Networks: a card for everybody in the library.

The host's own code draws the page. A thumbnail is read when the browser asks for it, by the host's own route for pictures
inside of files, so no path leaves the library.
"""

from __future__ import annotations

import base64
import functools
import html
import importlib
import io
import json
import logging
import os
import threading
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from celeb_basis.basis import load_cached
from celeb_basis.errors import CelebBasisError
from celeb_basis.files import checked_name
from celeb_basis.identities.expand import tensors_of
from celeb_basis.identities.identity import MAX_FILE_SIZE, READERS, Identity, IdentityMetadata, load_identity
from celeb_basis.identities.library import Listing
from celeb_basis.method import Basis
from celeb_basis.prompts.registry import Registry

if TYPE_CHECKING:
    from celeb_basis.prompts.registry import Checkpoint


# FOLDED: What the host's own pages tell about people, read without their pictures and kept until a file changes.

_Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class IndexedIdentity:
    """One identity file, without its coefficients, vectors and thumbnail."""

    name: str
    path: Path
    stamp: _Stamp
    problem: str = ""
    """Why the file cannot be used; else empty, and the rest is there."""
    content_hash: str = ""
    """Of the vectors in the file, whichever checkpoint is loaded."""
    about: IdentityMetadata | None = None
    """Always without the thumbnail."""
    has_thumbnail: bool = False
    distance: float | None = None
    """To the mean celebrity, in units of the celebrities' own distance; ``None`` where its basis is not cached here."""


class IdentityIndex:
    """IndexedIdentity of identity files; a file is read again when its time stamp, size or place changed. Safe in threads.

    Parameters: ``bases`` is the folder of cached bases, for distances; without it there are none.
    """

    def __init__(self, bases: Path | None = None) -> None:
        self._bases = bases
        self._lock = threading.Lock()
        self._known: dict[str, IndexedIdentity] = {}

    def of(self, files: Iterable[tuple[str, Path]]) -> tuple[IndexedIdentity, ...]:
        """IndexedIdentity of each name and its file, in order; files that are gone are left out."""
        found: list[IndexedIdentity] = []
        bases: dict[str, Basis | None] = {}
        for name, path in files:
            try:
                status = os.stat(path)
            except OSError:
                continue
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            with self._lock:
                facts = self._known.get(str(path))
            if facts is None or facts.stamp != stamp or facts.name != name:
                facts = self._read(name, path, stamp, bases)
                with self._lock:
                    self._known[str(path)] = facts
            found.append(facts)
        return tuple(found)

    def keep_only(self, paths: Iterable[Path]) -> None:
        """Forget every other file."""
        kept = {str(path) for path in paths}
        with self._lock:
            self._known = {path: facts for path, facts in self._known.items() if path in kept}

    def _read(self, name: str, path: Path, stamp: _Stamp, bases: dict[str, Basis | None]) -> IndexedIdentity:
        try:
            checked_name(name)
            identity, has_thumbnail = _without_picture(path)
        except CelebBasisError as error:
            return IndexedIdentity(name, path, stamp, problem=str(error))
        about = identity.metadata
        if about.thumbnail is not None:
            about = replace(about, thumbnail=None)
        distance = self._distance(identity, bases)
        return IndexedIdentity(name, path, stamp, "", identity.content_hash, about, has_thumbnail, distance)

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
    """The thumbnail in the identity file ``path``, or ``None`` if there is none, or no whole file."""
    try:
        return load_identity(path).metadata.thumbnail
    except CelebBasisError:
        return None


def _without_picture(path: Path) -> tuple[Identity, bool]:
    """The identity in ``path`` without reading its thumbnail, and whether it has one.

    Raises: :class:`IdentityError` and :class:`FileError` as :func:`load_identity` does.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if path.stat().st_size > MAX_FILE_SIZE:
            raise ValueError
        with safe_open(str(path), framework="np") as file:
            header, keys = file.metadata() or {}, set(file.keys())
            tensors = {key: file.get_tensor(key) for key in keys - {"thumbnail"}}
        return READERS[int(header["format_version"])](tensors, header), "thumbnail" in keys
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, CelebBasisError):
        identity = load_identity(path)  # which says in words what is wrong
        return identity, identity.metadata.thumbnail is not None


_log = logging.getLogger(__name__)

TITLE = "Celeb Basis"
PAGE = "celeb_basis"

_COVER = "ssmd_cover_images"
"""The key under which the host looks for pictures inside of a file."""
_LARGEST_SIDE = 4096
_NOBODY = "<div class='nocards'><h1>Nobody yet: learn a person on the tab Celeb Basis.</h1></div>"


class Tokens(Protocol):
    """What is needed of :class:`celeb_basis.hosts.a1111.tokens.Tokens`."""

    registry: Registry

    @property
    def checkpoint(self) -> Callable[[], Checkpoint | None]: ...


class Cards:
    """Everybody in the library, as cards tell it. No host here.

    Parameters: ``bases`` is the folder of cached bases, for distances.
    """

    def __init__(self, tokens: Tokens, bases: Path | None = None) -> None:
        self._tokens = tokens
        self._facts = IdentityIndex(bases)

    @property
    def folder(self) -> Path:
        """The library's folder."""
        return self._tokens.registry.folder

    def all(self) -> tuple[IndexedIdentity, ...]:
        """Everybody, in alphabetical order, from the folder as it is now. Files that no prompt can name are left out."""
        files = [(name, path) for name, path in Listing(self.folder).files() if _usable(name)]
        self._facts.keep_only(path for _, path in files)
        return self._facts.of(files)

    def one(self, name: str) -> IndexedIdentity | None:
        """Who is called ``name``, or ``None``."""
        found = Listing(self.folder).find(name)
        facts = self._facts.of([(found[0], Path(found[1]))]) if found and _usable(found[0]) else ()
        return facts[0] if facts else None

    def reasons(self) -> Callable[[IndexedIdentity], str]:
        """What tells of each person why the loaded checkpoint cannot draw them; empty if it can, or if none is loaded.

        For one page; see :meth:`Registry.reasons`.
        """
        try:
            checkpoint = self._tokens.checkpoint()
        except CelebBasisError as error:
            broken = str(error)
            return lambda facts: facts.problem or broken
        reason = self._tokens.registry.reasons(checkpoint) if checkpoint is not None else None

        def told(facts: IndexedIdentity) -> str:
            if facts.problem or facts.about is None or reason is None:
                return facts.problem
            return reason(facts.name, facts.about)

        return told

    def why_not(self, facts: IndexedIdentity) -> str:
        """Why the loaded checkpoint cannot draw this person, as :meth:`reasons` tells it."""
        return self.reasons()(facts)

    def description(self, facts: IndexedIdentity, reason: str) -> str:
        """The card's text: the ``reason``, if the person cannot be drawn; then model, date and distance."""
        lines = [f"⚠ Not available: {reason}"] if reason else []
        if (about := facts.about) is not None:
            model = about.learned_on or about.base_model or "an unknown model"
            relation = "for" if about.source == "imported" else "on"
            lines.append(f"{about.source} {relation} {model}" + (f" ({about.family})" if about.family else ""))
            lines.append(datetime.fromisoformat(about.created).date().isoformat())
            if facts.distance is not None:
                lines.append(f"distance {facts.distance:.2f} (celebrities: 1)")
        return "\n".join(lines)


class CardMetadata(Mapping[str, Any]):
    """What the host shows of a card's file. The thumbnail is read at the moment when the host asks for it."""

    def __init__(self, facts: IndexedIdentity) -> None:
        self._facts = facts
        about = facts.about
        self._told: dict[str, Any] = {"name": facts.name, "hash": facts.content_hash}
        if about is None:
            self._told["problem"] = facts.problem
        else:
            keys = (
                "base_model",
                "family",
                "learned_on",
                "face_model",
                "steps",
                "source",
                "created",
                "consent",
                "notes",
            )
            self._told |= {key: getattr(about, key) for key in keys if getattr(about, key) not in ("", 0)}
            self._told |= {"distance": round(facts.distance, 3)} if facts.distance is not None else {}
            self._told |= {f"settings/{key}": _flat(value) for key, value in about.settings.items()}

    def __getitem__(self, key: str) -> Any:
        if key == _COVER:
            return json.dumps(self._pictures())
        return self._told[key]

    def __iter__(self) -> Iterator[str]:
        return iter((*self._told, _COVER))

    def __len__(self) -> int:
        return len(self._told) + 1

    def _pictures(self) -> list[str]:
        thumbnail = thumbnail_of(self._facts.path) if self._facts.has_thumbnail else None
        if thumbnail is None or not _of_sane_size(thumbnail):
            return []
        return [base64.b64encode(thumbnail).decode("ascii")]


def add_page(tokens: Tokens, bases: Path | None = None) -> None:
    """Add the page to those that the host is about to build. Called before each page of the host's.

    A fork whose pages are of another kind, as SD.Next's are, gets none.
    """
    model: Any = importlib.import_module("modules.ui_extra_networks")
    if hasattr(model.ExtraNetworksPage, "create_card_view_html"):
        model.register_page(page_of(Cards(tokens, bases)))


def page_of(cards: Cards) -> Any:
    """The host's page object for ``cards``. Only inside the host."""
    return _page_class()(cards)


@functools.cache
def _page_class() -> Any:
    model: Any = importlib.import_module("modules.ui_extra_networks")
    shared: Any = importlib.import_module("modules.shared")

    class CelebBasisPage(model.ExtraNetworksPage):  # type: ignore[misc]
        def __init__(self, cards: Cards) -> None:
            super().__init__(TITLE)
            # The page's script asks for metadata by the tab's name, the host looks it up by this one.
            self.name = PAGE
            self.allow_negative_prompt = True
            self.cards = cards

        def list_items(self) -> Iterator[dict[str, Any]]:
            # The host asked for them once, before another data folder was chosen.
            model.allowed_dirs.update(self.allowed_directories_for_previews())
            why_not = self.cards.reasons()
            for index, facts in enumerate(self.cards.all()):
                yield self._item(facts, index, why_not(facts))

        def create_item(self, name: str, index: int | None = None, enable_filter: bool = True) -> Any:
            del enable_filter
            facts = self.cards.one(name)
            return None if facts is None else self._item(facts, index, self.cards.why_not(facts))

        def allowed_directories_for_previews(self) -> list[str]:
            return [str(self.cards.folder)]

        def create_card_view_html(self, tabname: str, *, none_message: Any) -> Any:
            return super().create_card_view_html(tabname, none_message=none_message or _NOBODY)

        def read_user_metadata(self, item: dict[str, Any], use_cache: bool = True) -> None:
            told = item["description"]
            try:
                super().read_user_metadata(item, use_cache)
                written = item["user_metadata"].get("description")
            except AttributeError:  # a file beside the identity that holds something else
                item["user_metadata"], written = {}, None
            # What is told above is not the user's to edit, and stays under what the user wrote.
            item["user_metadata"].setdefault("description", "")
            item["description"] = "\n".join(filter(None, (str(written or ""), told)))

        def create_item_html(self, tabname: str, item: dict[str, Any], template: str | None = None) -> Any:
            word = json.dumps(f"<{item['name']}>")
            shown = item | {
                "onclick": html.escape(f"celebBasisCardClicked({json.dumps(tabname)}, {word});"),
                # The host puts it into an attribute as it is.
                "filename": html.escape(item["filename"]),
            }
            made = super().create_item_html(tabname, shown, template)
            if isinstance(made, str) and item["unavailable"]:
                made = made.replace('class="card"', f'class="card celeb-basis-unavailable" {_title(item)}', 1)
            return made

        def _item(self, facts: IndexedIdentity, index: int | None, reason: str) -> dict[str, Any]:
            file = str(facts.path)
            stem = os.path.splitext(file)[0]
            described = self.cards.description(facts, reason)
            if shared.opts.extra_networks_card_description_is_html:
                described = html.escape(described)
            about = facts.about
            terms = [self.search_terms_from_path(file), f"<{facts.name}>", facts.content_hash]
            terms += [about.base_model, about.family, about.source] if about else []
            return {
                "name": facts.name,
                "filename": file,
                "shorthash": facts.content_hash,
                "preview": self.find_preview(stem) or self._embedded(facts),
                "description": described,
                "search_terms": [html.escape(term) for term in terms if term],
                "metadata": CardMetadata(facts),
                "prompt": model.quote_js(f"<{facts.name}>"),
                "local_preview": f"{stem}.preview.{shared.opts.samples_format}",
                "sort_keys": {"default": index, **self.get_sort_keys(file)},
                "unavailable": reason,
            }

        def _embedded(self, facts: IndexedIdentity) -> str | None:
            if not facts.has_thumbnail:
                return None
            query = {"page": self.name, "item": facts.name, "mtime": facts.stamp[0]}
            return f"./sd_extra_networks/cover-images?{urllib.parse.urlencode(query)}"

    return CelebBasisPage


def _title(item: dict[str, Any]) -> str:
    """The whole reason, for the mouse and for screen readers: the host cuts long descriptions."""
    told = html.escape(item["unavailable"])
    return f'title="{told}" aria-label="{html.escape(item["name"])}: {told}"'


def _usable(name: str) -> bool:
    try:
        checked_name(name)
    except CelebBasisError as error:
        _log.warning("There is no card for the file %r: %s", name, error)
        return False
    return True


def _of_sane_size(picture: bytes) -> bool:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(picture)) as image:
            return bool(max(image.size) <= _LARGEST_SIDE)
    except Exception:  # Pillow raises whatever its plugins raise
        return False


def _flat(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool)) else json.dumps(value, ensure_ascii=False)
