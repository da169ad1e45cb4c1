"""The identity file: one versioned ``.safetensors``. Whatever a file says is checked before it is believed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from celeb_basis.errors import IdentityError
from celeb_basis.files import explained_os_errors, write_bytes
from celeb_basis.identities.identity import FORMAT_VERSION, Identity, IdentityMetadata

SUFFIX = ".safetensors"
MAX_FILE_SIZE = 64 << 20
"""Bytes; an identity has some ten thousand."""

_FORMAT = "celeb-basis-identity"
_Tensors = Mapping[str, npt.NDArray[Any]]


def save_identity(identity: Identity, path: Path) -> None:
    """Write ``identity`` to ``path`` atomically, in the present version of the format.

    Raises: :class:`FileError` for a full disk, a read-only folder and the like.
    """
    write_bytes(Path(path), identity_to_bytes(identity))


def load_identity(path: Path) -> Identity:
    """Read the identity file ``path``.

    Raises: :class:`IdentityError` for anything but a whole identity file of a version known here, :class:`FileError`
    if it cannot be read at all.
    """
    path = Path(path)
    with explained_os_errors(path, "read"), open(path, "rb") as file:
        data = file.read(MAX_FILE_SIZE + 1)
    try:
        return identity_from_bytes(data)
    except IdentityError as error:
        raise IdentityError(f"{path.name} cannot be used: {str(error)[:1].lower()}{str(error)[1:]}") from error


def identity_to_bytes(identity: Identity) -> bytes:
    """The content of an identity file."""
    from safetensors.numpy import save

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
    return bytes(save(tensors, header))


def identity_from_bytes(data: bytes) -> Identity:
    """Read the content of an identity file.

    Raises: :class:`IdentityError` for anything but a whole identity file of a version known here.
    """
    if len(data) > MAX_FILE_SIZE:
        raise IdentityError(f"It is larger than {MAX_FILE_SIZE >> 20} MB, so it is no identity: choose another file.")
    tensors, header = _read_safetensors(data)
    if header.get("format") != _FORMAT:
        raise IdentityError(
            "It is a safetensors file, but not an identity: choose an identity file, or import it as an embedding."
        )
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
    return reader(tensors, header)


def _read_version_1(tensors: _Tensors, header: Mapping[str, str]) -> Identity:
    described = _json_object(header.get("identity", ""))
    name, encoders = described.pop("name", None), described.pop("encoders", None)
    if not isinstance(name, str):
        raise IdentityError("It holds no name: take another copy of it.")
    if not isinstance(encoders, list) or not all(isinstance(encoder, str) for encoder in encoders):
        raise IdentityError("It does not list its text encoders: take another copy of it.")
    known = {item.name for item in fields(IdentityMetadata)} - {"thumbnail", "format_version"}
    if set(described) != known:
        different = sorted(set(described) ^ known)
        raise IdentityError(f"Its description lacks or adds {different[0]!r}: take another copy of it.")
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


def _read_safetensors(data: bytes) -> tuple[_Tensors, Mapping[str, str]]:
    """Tensors and metadata of a safetensors file's content."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(data)
        # The library, which has just checked the whole header, gives no metadata for bytes in memory.
        header = _json_object(data[8 : 8 + int.from_bytes(data[:8], "little")].decode("utf-8")).get("__metadata__", {})
    except (SafetensorError, KeyError, ValueError, TypeError, OverflowError, IdentityError):
        raise IdentityError(
            "It is no safetensors file, or a damaged or incomplete one: take another copy of it."
        ) from None
    if not isinstance(header, dict) or not all(isinstance(value, str) for value in header.values()):
        raise IdentityError("Its header is damaged: take another copy of it.")
    return tensors, header


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise IdentityError("Its description is damaged: take another copy of it.")
    return value
