"""Reads ``.pt`` and ``.bin`` files without running anything in them, and writes them so that every tool accepts them."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from celeb_basis.errors import ExportError
from celeb_basis.exports.safe_pickle import (
    DAMAGED,
    TOO_LARGE,
    Global,
    ParameterDictRecord,
    TensorRecord,
    read_pickle,
)
from celeb_basis.files import atomic_path, explained_os_errors

MAX_FILE_SIZE = 64 << 20
"""Size in bytes of the largest file that is read. Embeddings have thousands, coefficient files tens of thousands."""

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_MAX_DEPTH = 32

# NumPy type of each storage. NumPy has no bfloat16, so its bits are read as integers and upcast by hand.
_STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}


def read_torch_file(path: Path) -> Any:
    """Read what ``torch.save`` wrote to ``path``. Nothing in the file is executed, imported or constructed.

    Both of torch's formats are read: the zip archive, and the older sequence of pickles.

    Returns:
        The content as dictionaries, lists, tuples, numbers, strings and NumPy arrays. Parameters become arrays, and
        parameter dictionaries become dictionaries.

    Raises:
        ExportError: The file is damaged, malicious, too large, or of another format.
        FileError: The file cannot be read.
    """
    path = Path(path)
    with explained_os_errors(path, "read"), open(path, "rb") as file:
        data = file.read(MAX_FILE_SIZE + 1)
    try:
        if len(data) > MAX_FILE_SIZE:
            raise ExportError(
                f"The file is larger than {MAX_FILE_SIZE >> 20} MB, so it is not an embedding: choose another file."
            )
        value = _read_zip(data) if data[:2] == b"PK" else _read_legacy(data)
        return _PlainValues().convert(value)
    except ExportError as error:
        raise ExportError(f"{path.name} cannot be read: {str(error)[:1].lower()}{str(error)[1:]}") from error


def write_torch_file(path: Path, value: Any) -> None:
    """Write ``value`` (tensors in plain containers) to ``path`` atomically, in torch's older format.

    The WebUI's own check rejects the zip archives that recent versions of torch write; every tool reads the older format.

    Raises:
        FileError: The file cannot be written, for example because the disk is full.
    """
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=False)
    with atomic_path(Path(path)) as temporary:
        temporary.write_bytes(buffer.getvalue())


class _Storage:
    """A tensor's numbers. In the old format they follow the pickle and are filled in later."""

    def __init__(self, kind: str, key: str, count: int) -> None:
        if kind not in _STORAGES:
            raise ExportError(f"The file contains a storage of type {kind[:40]!a}: only plain tensors can be read.")
        self.kind, self.key, self.count = kind, key, count
        self.values: npt.NDArray[Any] | None = None

    def fill(self, data: bytes) -> None:
        """Set the values from their bytes, little-endian."""
        dtype = np.dtype(_STORAGES[self.kind])
        if len(data) != self.count * dtype.itemsize:
            raise ExportError(DAMAGED)
        values = np.frombuffer(data, dtype=dtype)
        if self.kind == "BFloat16Storage":
            values = (values.astype("<u4") << 16).view("<f4")
        self.values = values


def _read_zip(data: bytes) -> Any:
    storages: dict[str, _Storage] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = {info.filename: info for info in archive.infolist()}
            pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
            # torch does not compress its entries; compressed ones could expand to any size.
            compressed = any(info.compress_type != zipfile.ZIP_STORED for info in entries.values())
            if len(pickles) != 1 or compressed or sum(info.file_size for info in entries.values()) > MAX_FILE_SIZE:
                raise ExportError("The file is a zip archive, but torch did not write it: choose another file.")
            folder = pickles[0].removesuffix("data.pkl")
            order = archive.read(folder + "byteorder") if folder + "byteorder" in entries else b"little"
            if order.strip() != b"little":
                raise ExportError("The file was written on a big-endian machine: save it again on a little-endian one.")

            def resolve(identifier: Any) -> _Storage:
                storage = _described_storage(identifier, storages)
                if storage.values is None:
                    storage.fill(archive.read(f"{folder}data/{storage.key}"))
                return storage

            return read_pickle(io.BytesIO(archive.read(pickles[0])), resolve)
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, NotImplementedError, RuntimeError, OSError):
        raise ExportError(DAMAGED) from None


def _read_legacy(data: bytes) -> Any:
    """Read five pickles (magic number, version, system, the object, the storages' keys), then the storages' numbers."""
    stream = io.BytesIO(data)
    storages: dict[str, _Storage] = {}
    try:
        magic = read_pickle(stream)
    except ExportError:
        magic = None
    if magic != _LEGACY_MAGIC:
        raise ExportError("The file is damaged, or torch did not write it: choose another file.")
    version, system = read_pickle(stream), read_pickle(stream)
    if version != 1001 or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ExportError("The file was written by an unknown version of torch: save it again with a current one.")

    def resolve(identifier: Any) -> Any:
        # The old format saves a module's class together with its source code. Keep the name and ignore the code.
        if isinstance(identifier, tuple) and len(identifier) == 4 and identifier[0] == "module":
            return identifier[1]
        return _described_storage(identifier, storages)

    value = read_pickle(stream, resolve)
    keys = read_pickle(stream)
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in storages for key in keys):
        raise ExportError(DAMAGED)
    for key in keys:
        storage = storages[key]
        if int.from_bytes(stream.read(8), "little") != storage.count:
            raise ExportError(DAMAGED)
        storage.fill(stream.read(storage.count * np.dtype(_STORAGES[storage.kind]).itemsize))
    return value


def _described_storage(identifier: Any, storages: dict[str, _Storage]) -> _Storage:
    """Return the storage that a persistent id describes: ``("storage", kind, key, device, count[, view])``."""
    if not isinstance(identifier, tuple) or len(identifier) not in (5, 6) or identifier[0] != "storage":
        raise ExportError(DAMAGED)
    kind, key, count = identifier[1], identifier[2], identifier[4]
    if not isinstance(kind, Global) or not isinstance(key, str) or not isinstance(count, int):
        raise ExportError(DAMAGED)
    if len(identifier) == 6 and identifier[5] is not None:
        raise ExportError(
            "The file shares storages between tensors as very old versions of torch did: save it again with a current one."
        )
    if not kind.name.startswith("torch.") or isinstance(count, bool) or not 0 <= count <= MAX_FILE_SIZE:
        raise ExportError(DAMAGED)
    storage = storages.setdefault(key, _Storage(kind.name.removeprefix("torch."), key, count))
    if storage.count != count or kind.name != f"torch.{storage.kind}":
        raise ExportError(DAMAGED)
    return storage


class _PlainValues:
    """Converts records to arrays and dictionaries: each shared part once, and no more bytes in all than a file may have."""

    def __init__(self) -> None:
        self._done: dict[int, Any] = {}
        self._bytes_left = MAX_FILE_SIZE

    def convert(self, value: Any, depth: int = 0) -> Any:
        """Convert ``value``, which is nested ``depth`` levels deep."""
        if depth > _MAX_DEPTH:
            raise ExportError("The file is nested far too deeply for an embedding: choose another file.")
        if id(value) in self._done:
            return self._done[id(value)]
        result: Any = value
        if isinstance(value, TensorRecord):
            result = self._array(value)
        elif isinstance(value, ParameterDictRecord):
            result = self.convert(value.parameters, depth + 1)
        elif isinstance(value, Mapping):
            result = {key: self.convert(item, depth + 1) for key, item in value.items()}
        elif isinstance(value, (list, tuple)):
            result = type(value)(self.convert(item, depth + 1) for item in value)
        elif isinstance(value, (Global, _Storage)):
            raise ExportError("The file contains more than tensors and plain values: choose another file.")
        self._done[id(value)] = result
        return result

    def _array(self, record: TensorRecord) -> npt.NDArray[Any]:
        storage = record.storage
        if not isinstance(storage, _Storage) or storage.values is None or len(record.size) != len(record.stride):
            raise ExportError(DAMAGED)
        count = math.prod(record.size)
        last = record.offset + sum((n - 1) * step for n, step in zip(record.size, record.stride, strict=True))
        # A view must not be larger than its storage, or a file of a few bytes could allocate all memory.
        if count > storage.count or (count and last >= storage.count) or len(record.size) > 8:
            raise ExportError(DAMAGED)
        width = storage.values.itemsize
        self._bytes_left -= count * width
        if self._bytes_left < 0:
            raise ExportError(TOO_LARGE)
        if not count:
            return np.zeros(0, dtype=storage.values.dtype)
        strides = [step * width for step in record.stride]
        view: npt.NDArray[Any] = np.lib.stride_tricks.as_strided(
            storage.values[record.offset :], record.size, strides, writeable=False
        )
        return np.array(view)
