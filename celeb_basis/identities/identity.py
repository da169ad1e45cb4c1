"""An identity, the coefficients and token vectors that stand for a person, with its metadata and its file format."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save

from celeb_basis import __version__
from celeb_basis.errors import IdentityError
from celeb_basis.files import checked_name, explained_os_errors, now, open_regular, write_bytes
from celeb_basis.model_files import kind_of
from celeb_basis.reading import MAX_DESCRIPTION, Header, UnreadableError, parse_json, read_header, read_tensors

Floats: TypeAlias = npt.NDArray[np.float32]

Source = Literal["learned", "blended", "imported", "invented"]

FORMAT_VERSION = 1
"""Version of the identity file that this package writes."""

MAX_TEXT = 20_000
"""Longest note, in characters."""
MAX_THUMBNAIL = 4 << 20
"""Largest thumbnail, in bytes."""
_MAX_POSITIONS = 75
"""No placeholder token has more token vectors than a prompt's chunk of the text encoder has places."""

_HASH = re.compile(r"[0-9a-f]{0,128}")
_ENCODER = re.compile(r"[A-Za-z0-9_]{1,32}")


@dataclass(frozen=True)
class IdentityMetadata:
    """What is known about an identity. Hashes are hex digests, empty where unknown.

    Raises:
        IdentityError: At construction, for values of a wrong type or size.
    """

    base_model: str = ""
    """Name of the checkpoint whose text encoders the token vectors are for."""
    family: str = ""
    """``"sd1"``, ``"sd2"`` or ``"sdxl"``."""
    base_sha256: str = ""
    learned_on: str = ""
    """Name of the checkpoint that the coefficients were learned on, where that is another one; else empty."""
    basis_sha256: tuple[str, ...] = ()
    """Hash of each text encoder's basis."""
    names_sha256: str = ""
    """Hash of the names that the bases were made from: the list, and what filters left of it (``expand.names_hash``)."""
    face_model: str = ""
    """The face network's pack; empty where none was used."""
    steps: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    """How it was made: the settings of training, the recipe of a blend, or the origin of an import. JSON values."""
    consent: str = ""
    """What the user noted about the person's consent."""
    notes: str = ""
    source: Source = "learned"
    created: str = field(default_factory=now)
    """ISO 8601 with a time zone."""
    generator: str = f"celeb-basis {__version__}"
    thumbnail: bytes | None = field(default=None, repr=False)
    """A small PNG, JPEG or WebP file."""
    format_version: int = FORMAT_VERSION
    """Version of the file that this was read from."""

    def __post_init__(self) -> None:
        for item in _metadata_fields():
            value = getattr(self, item.name)
            if item.type == "str" and (not isinstance(value, str) or len(value) > MAX_TEXT or not _encodable(value)):
                raise IdentityError(f"The identity's {item.name} is not a text of at most {MAX_TEXT} characters.")
            if item.type == "int" and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63):
                raise IdentityError(f"The identity's {item.name} is not a whole number from 0 upward.")
        hashes = self.basis_sha256
        if not isinstance(hashes, tuple) or not all(isinstance(digest, str) for digest in hashes):
            raise IdentityError("The identity's basis_sha256 is not a tuple of texts.")
        if not all(_HASH.fullmatch(digest) for digest in (*hashes, self.base_sha256, self.names_sha256)):
            raise IdentityError("One of the identity's hashes is not a hex digest.")
        if self.source not in get_args(Source):
            raise IdentityError(
                f"The identity's source is {str(self.source)[:40]!a}: it must be one of {get_args(Source)}."
            )
        try:
            if datetime.fromisoformat(self.created).tzinfo is None:
                raise ValueError
        except ValueError:
            raise IdentityError("The identity's date of creation is not an ISO 8601 time with a time zone.") from None
        # Through JSON and back: a copy of its own that is certain to be writable.
        object.__setattr__(self, "settings", _json_copy(self.settings))
        _check_thumbnail(self.thumbnail)


@functools.cache
def _metadata_fields() -> tuple[Field[Any], ...]:
    return fields(IdentityMetadata)


@dataclass(frozen=True, eq=False)
class Identity:
    """A learned person: ``E`` token vectors for each text encoder, and the coefficients ``c`` that they come from.

    Arrays are stored as read-only float32 copies.

    Raises:
        IdentityError: At construction, for an unusable name, shapes that do not fit, NaN or infinity.
    """

    name: str
    encoders: tuple[str, ...]
    """Names of the text encoders, in the host's order, e.g. ``("clip_l", "clip_g")``."""
    coefficients: tuple[Floats, ...]
    """``(E, K)`` for each encoder."""
    vectors: tuple[Floats, ...]
    """``(E, D_i)`` for each encoder."""
    metadata: IdentityMetadata = field(default_factory=IdentityMetadata)

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "name", checked_name(self.name))
        put(self, "encoders", tuple(self.encoders))
        count = len(self.encoders)
        if not count or len(set(self.encoders)) != count or not all(_ENCODER.fullmatch(name) for name in self.encoders):
            raise IdentityError(f"The identity {self.name!r} does not say which text encoders it is for.")
        put(self, "coefficients", tuple(_checked_array(array, "coefficients") for array in self.coefficients))
        put(self, "vectors", tuple(_checked_array(array, "token vectors") for array in self.vectors))
        if len(self.coefficients) != count or len(self.vectors) != count:
            raise IdentityError(f"The identity {self.name!r} lacks coefficients or token vectors of a text encoder.")
        if len({array.shape[0] for array in (*self.coefficients, *self.vectors)}) != 1:
            raise IdentityError(f"The identity {self.name!r} has another number of token vectors than coefficients.")
        if len(self.metadata.basis_sha256) not in (0, count):
            raise IdentityError(
                f"The identity {self.name!r} names {len(self.metadata.basis_sha256)} bases, not {count}."
            )

    @property
    def positions(self) -> int:
        """``E``: token vectors of the placeholder token."""
        return int(self.coefficients[0].shape[0])

    @property
    def content_hash(self) -> str:
        """Twelve hex digits of the token vectors' SHA-256. Identities with the same hash give the same images."""
        digest = hashlib.sha256()
        for encoder, array in zip(self.encoders, self.vectors, strict=True):
            digest.update(f"{encoder}|{array.shape}|".encode())
            digest.update(array.astype("<f4").tobytes())
        return digest.hexdigest()[:12]

    def token_vectors(self) -> tuple[torch.Tensor, ...]:
        """The vectors as ``(E, D_i)`` float32 tensors on the CPU, as :class:`DiffusionModel` takes them."""
        return tuple(torch.tensor(array) for array in self.vectors)


def _checked_array(array: Any, what: str) -> Floats:
    try:
        copy = np.array(array, dtype=np.float32, order="C")
    except (TypeError, ValueError):
        raise IdentityError(f"The identity's {what} are not numbers.") from None
    if copy.ndim != 2 or not 1 <= copy.shape[0] <= _MAX_POSITIONS or copy.shape[1] < 1:
        raise IdentityError(f"The identity's {what} have the shape {copy.shape}, not positions x numbers.")
    if not np.isfinite(copy).all():
        raise IdentityError(f"The identity's {what} hold NaN or infinity: learn it again, or take an older copy.")
    copy.setflags(write=False)
    return copy


def _check_thumbnail(data: Any) -> None:
    if data is None:
        return
    if not isinstance(data, bytes) or len(data) > MAX_THUMBNAIL:
        raise IdentityError(f"The identity's thumbnail is not a picture file of at most {MAX_THUMBNAIL >> 20} MB.")
    if not data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")) and (data[:4], data[8:12]) != (b"RIFF", b"WEBP"):
        raise IdentityError("The identity's thumbnail is no PNG, JPEG or WebP file.")


def _json_copy(settings: Any) -> dict[str, Any]:
    try:
        copy = json.loads(json.dumps(dict(settings), allow_nan=False), parse_float=_finite)
        json.dumps(copy, ensure_ascii=False).encode("utf-8")
    except (TypeError, ValueError, RecursionError):
        raise IdentityError("The identity's settings are not plain values with text keys.") from None
    assert isinstance(copy, dict)
    return copy


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def check_note(text: str, what: str) -> None:
    """Check that an identity can store the note ``text``, before the work whose result it would be saved with.

    Args:
        text: The note.
        what: What it is, for the message: ``"notes"`` or ``"note on consent"``.

    Raises:
        IdentityError: It is too long, or holds halves of characters.
    """
    if len(text) > MAX_TEXT:
        raise IdentityError(f"The {what} would have {len(text):,} characters: use at most {MAX_TEXT:,}.")
    if not _encodable(text):
        raise IdentityError(
            f"The {what} would contain half of a character (a lone surrogate), which no file can hold: type it again."
        )


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # lone surrogates
        return False
    return True


# The identity file: one versioned ``.safetensors``. Everything in a file is checked before it is used.

SUFFIX = ".safetensors"
MAX_FILE_SIZE = 64 << 20
"""Bytes; an identity has about ten thousand."""

_FORMAT = "celeb-basis-identity"
_Tensors = Mapping[str, npt.NDArray[Any]]


def save_identity(identity: Identity, path: Path) -> None:
    """Write ``identity`` to ``path`` atomically, in the current version of the format.

    Raises:
        FileError: The disk is full, the folder is read-only, or the like.
    """
    write_bytes(Path(path), identity_to_bytes(identity))


def load_identity(path: Path) -> Identity:
    """Read the identity file ``path``.

    Raises:
        IdentityError: It is not an intact identity file of a known version.
        FileError: It cannot be read at all.
    """
    identity, _ = _load(Path(path))
    return identity


def load_without_thumbnail(path: Path) -> tuple[Identity, bool]:
    """The identity in the file ``path`` without its thumbnail, and whether it has one. Raises as :func:`load_identity` does."""
    return _load(Path(path), thumbnail=False)


def _load(path: Path, *, thumbnail: bool = True) -> tuple[Identity, bool]:
    with open_regular(path, buffered=False) as file, explained_os_errors(path, "read"):
        try:
            return _read(file, thumbnail=thumbnail)
        except IdentityError as error:
            raise IdentityError(f"{path.name} cannot be used: {str(error)[:1].lower()}{str(error)[1:]}") from error


def identity_to_bytes(identity: Identity) -> bytes:
    """The content of an identity file.

    Raises:
        IdentityError: The description is too large.
    """
    tensors: dict[str, npt.NDArray[Any]] = {}
    for encoder, coefficients, vectors in zip(identity.encoders, identity.coefficients, identity.vectors, strict=True):
        tensors[f"coefficients.{encoder}"] = coefficients
        tensors[f"vectors.{encoder}"] = vectors
    described = asdict(identity.metadata)
    del described["format_version"]
    if (thumbnail := described.pop("thumbnail")) is not None:
        tensors["thumbnail"] = np.frombuffer(thumbnail, dtype=np.uint8)
    described |= {"name": identity.name, "encoders": identity.encoders}
    header = {
        "format": _FORMAT,
        "format_version": str(FORMAT_VERSION),
        "identity": json.dumps(described, ensure_ascii=False, allow_nan=False),
    }
    if (size := len(header["identity"].encode())) > MAX_DESCRIPTION:
        raise IdentityError(
            f"The description of {identity.name!r} has {size >> 10} KB, more than the {MAX_DESCRIPTION >> 10} KB that an "
            "identity may have: shorten its notes."
        )
    return bytes(save(tensors, header))


def identity_from_bytes(data: bytes) -> Identity:
    """Read the content of an identity file.

    Raises:
        IdentityError: It is not the content of an intact identity file of a known version.
    """
    identity, _ = _read(io.BytesIO(data))
    return identity


def _read(file: BinaryIO, *, thumbnail: bool = True) -> tuple[Identity, bool]:
    """The identity in ``file``, with its thumbnail if that is wanted, and whether it has one."""
    if file.seek(0, 2) > MAX_FILE_SIZE:
        raise IdentityError(f"It is larger than {MAX_FILE_SIZE >> 20} MB, so it is no identity: choose another file.")
    try:
        content = read_header(file)
        reader = _reader(content)
        tensors = read_tensors(file, content, skip=() if thumbnail else ("thumbnail",))
    except UnreadableError as error:
        raise IdentityError(str(error)) from None
    return reader(tensors, content.metadata), "thumbnail" in content.entries


def _reader(content: Header) -> Callable[[_Tensors, Mapping[str, str]], Identity]:
    """What reads the version of the format that a header names."""
    header = content.metadata
    if header.get("format") != _FORMAT:
        kind = kind_of({name: entry.shape for name, entry in content.entries.items()})
        if kind is None or kind == "an embedding":
            raise IdentityError(
                "It is a safetensors file, but not an identity: choose an identity file, or import it as an embedding."
            )
        raise IdentityError(f"It is {kind}, not an identity: choose an identity file.")
    version = header.get("format_version", "")
    if not version.isascii() or not version.isdigit() or len(version) > 9:
        raise IdentityError("It does not say which version of the format it has: take another copy of it.")
    if int(version) > FORMAT_VERSION:
        raise IdentityError(
            f"It has version {int(version)} of the format and this program knows up to {FORMAT_VERSION}: "
            "update celeb-basis."
        )
    reader = READERS.get(int(version))
    if reader is None:
        raise IdentityError(
            f"It has version {int(version)} of the format, which never existed: take another copy of it."
        )
    return reader


def _read_version_1(tensors: _Tensors, header: Mapping[str, str]) -> Identity:
    text = header.get("identity", "")
    if (size := len(text.encode("utf-8", "replace"))) > MAX_DESCRIPTION:
        raise IdentityError(
            f"Its description has {size >> 10:,} KB, more than the {MAX_DESCRIPTION >> 10} KB that one may have: take "
            "another copy of it."
        )
    described = _json_object(text)
    name, encoders = described.pop("name", None), described.pop("encoders", None)
    if not isinstance(name, str):
        raise IdentityError("It holds no name: take another copy of it.")
    if not isinstance(encoders, list) or not all(
        isinstance(encoder, str) and _ENCODER.fullmatch(encoder) for encoder in encoders
    ):
        raise IdentityError("It does not list its text encoders: take another copy of it.")
    known = {item.name for item in _metadata_fields()} - {"thumbnail", "format_version"}
    if set(described) != known:
        different = sorted(set(described) ^ known)
        raise IdentityError(f"Its description lacks or adds {different[0][:40]!a}: take another copy of it.")
    if not isinstance(described["basis_sha256"], list) or not isinstance(described["settings"], dict):
        raise IdentityError("Its description holds a value of a wrong type: take another copy of it.")
    described["basis_sha256"] = tuple(described["basis_sha256"])
    thumbnail = tensors.get("thumbnail")
    if thumbnail is not None:
        if thumbnail.dtype != np.uint8:
            raise IdentityError("Its thumbnail is not made of bytes: take another copy of it.")
        described["thumbnail"] = thumbnail.tobytes()
    try:
        coefficients = tuple(_float_tensor(tensors, f"coefficients.{encoder}") for encoder in encoders)
        vectors = tuple(_float_tensor(tensors, f"vectors.{encoder}") for encoder in encoders)
    except KeyError as error:
        raise IdentityError(f"It lacks {error.args[0]}: take another copy of it.") from None
    return Identity(name, tuple(encoders), coefficients, vectors, IdentityMetadata(**described, format_version=1))


READERS: Mapping[int, Callable[[_Tensors, Mapping[str, str]], Identity]] = {1: _read_version_1}
"""How each version of the format becomes an identity of today. A new version adds a line and leaves the old ones."""


def _float_tensor(tensors: _Tensors, key: str) -> npt.NDArray[np.float32]:
    array = tensors[key]
    if array.dtype != np.float32:
        raise IdentityError(f"Its {key} are {array.dtype}, not float32: take another copy of it.")
    return array


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = parse_json(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise IdentityError("Its description is damaged: take another copy of it.")
    return value
