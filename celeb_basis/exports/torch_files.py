"""Reads ``.pt`` and ``.bin`` files without running anything in them, and writes them so that every tool accepts them."""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch

from celeb_basis.errors import ExportError
from celeb_basis.exports.safe_pickle import (
    DAMAGED,
    MAX_BYTES,
    TOO_LARGE,
    Global,
    ParameterDictRecord,
    TensorRecord,
    read_pickle,
)
from celeb_basis.files import atomic_path, explained_os_errors, open_regular
from celeb_basis.model_files import Shapes

MAX_FILE_SIZE = 64 << 20
"""Size in bytes above which a file is only read if torch wrote it. Embeddings have thousands of bytes; those of old trainers
bring the whole token table of their text encoder along, of which only the learned rows are read."""
MAX_TENSOR_BYTES = 32 << 20
"""Most bytes of numbers that are read from a file, and most that its tensors have."""

_MAX_COUNT = 2**36
_MAX_DIRECTORY = 1 << 20
_WHOLE_STORAGE = 16 << 20
_MAX_SHAPES = 20_000

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


def read_torch_file(path: Path, *, first_row: int = 0) -> Any:
    """Read what ``torch.save`` wrote to ``path``. Nothing in the file is executed, imported or constructed.

    Both of torch's formats are read: the zip archive, and the older sequence of pickles.

    Args:
        path: The file.
        first_row: Tables of more rows than this are read from this row on.

    Returns:
        The content as dictionaries, lists, tuples, numbers, strings and NumPy arrays. Parameters become arrays, and
        parameter dictionaries become dictionaries.

    Raises:
        ExportError: The file is damaged, malicious, too large, or of another format.
        FileError: The file cannot be read.
    """
    path = Path(path)
    with open_regular(path) as file, explained_os_errors(path, "read"):
        try:
            return _PlainValues(file, first_row).convert(_records(file))
        except ExportError as error:
            raise ExportError(f"{path.name} cannot be read: {str(error)[:1].lower()}{str(error)[1:]}") from error


def torch_file_shapes(path: Path) -> Shapes:
    """Names and shapes of the tensors in a file of ``torch.save``, without reading their numbers.

    Dictionaries within dictionaries give names with dots.

    Raises:
        ExportError: As for :func:`read_torch_file`.
        FileError: The file cannot be read.
    """
    found: dict[str, tuple[int, ...]] = {}

    def collect(value: Any, name: str, depth: int) -> None:
        if isinstance(value, ParameterDictRecord):
            value = value.parameters
        if isinstance(value, TensorRecord):
            found[name] = value.size
        elif isinstance(value, (Mapping, list, tuple)) and depth < _MAX_DEPTH:
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            for key, item in items:
                if len(found) < _MAX_SHAPES:
                    collect(item, f"{name}.{str(key)[:200]}" if name else str(key)[:200], depth + 1)

    with open_regular(Path(path)) as file, explained_os_errors(Path(path), "read"):
        collect(_records(file), "", 0)
    return found


def _records(file: BinaryIO) -> Any:
    """What a file holds, with records in place of tensors. Their numbers are read when they are converted."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    start = file.read(2)
    file.seek(0)
    try:
        return _read_zip(file, size) if start == b"PK" else _read_legacy(file, size)
    except ExportError:
        if size > MAX_FILE_SIZE and not _written_by_torch(file):
            raise ExportError(
                f"The file is larger than {MAX_FILE_SIZE >> 20} MB, so it is not an embedding: choose another file."
            ) from None
        raise


def _written_by_torch(file: BinaryIO) -> bool:
    file.seek(0)
    return file.read(2)[:1] in (b"P", b"\x80")


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
    """A tensor's numbers, which are read when they are needed."""

    def __init__(self, kind: str, key: str, count: int) -> None:
        if kind not in _STORAGES:
            raise ExportError(f"The file contains a storage of type {kind[:40]!a}: only plain tensors can be read.")
        self.kind, self.key, self.count = kind, key, count
        self.dtype = np.dtype(_STORAGES[kind])
        self.position: int | None = None
        """Where the numbers begin in the file, in bytes; ``None`` if they are not in it."""
        self.check: Callable[[], bytes] | None = None
        """Reads all of the numbers and checks them, where the format has a checksum."""
        self._whole: npt.NDArray[Any] | None = None

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self.count * self.dtype.itemsize

    @property
    def width(self) -> int:
        """Bytes of a number in memory."""
        return 4 if self.kind == "BFloat16Storage" else self.dtype.itemsize

    def values(self, file: BinaryIO, begin: int, count: int, spend: Callable[[int], None]) -> npt.NDArray[Any]:
        """``count`` numbers from ``begin`` on. ``spend`` counts the bytes before they are read."""
        if self.position is None:
            raise ExportError(DAMAGED)
        if self.size > _WHOLE_STORAGE:
            spend(count * self.width)
            file.seek(self.position + begin * self.dtype.itemsize)
            return self._decoded(file.read(count * self.dtype.itemsize), count)
        if self._whole is None:
            spend(self.count * self.width)
            if self.check is None:
                file.seek(self.position)
            self._whole = self._decoded(self.check() if self.check else file.read(self.size), self.count)
        return self._whole[begin : begin + count]

    def _decoded(self, data: bytes, count: int) -> npt.NDArray[Any]:
        if len(data) != count * self.dtype.itemsize:
            raise ExportError(DAMAGED)
        values = np.frombuffer(data, dtype=self.dtype)
        if self.kind == "BFloat16Storage":
            values = (values.astype("<u4") << 16).view("<f4")
        return values


class _Guarded(io.RawIOBase):
    """A file that refuses to be read in large pieces while the directory of a zip archive is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.limit = _MAX_DIRECTORY

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            here = self._file.tell()
            size = self._file.seek(0, io.SEEK_END) - here
            self._file.seek(here)
        if size > self.limit:
            raise ExportError(TOO_LARGE)
        return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def _read_zip(file: BinaryIO, size: int) -> Any:
    storages: dict[str, _Storage] = {}
    guarded = _Guarded(file)
    try:
        archive = zipfile.ZipFile(guarded)
        guarded.limit = _WHOLE_STORAGE
        entries = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        # torch does not compress its entries; compressed ones could expand to any size, as could sizes that differ.
        plain = all(
            info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size <= size
            for info in entries.values()
        )
        if len(pickles) != 1 or not plain:
            raise ExportError("The file is a zip archive, but torch did not write it: choose another file.")
        if entries[pickles[0]].file_size > MAX_BYTES:
            raise ExportError(TOO_LARGE)
        folder = pickles[0].removesuffix("data.pkl")
        order = entries.get(folder + "byteorder")
        if order is not None and (order.file_size > 16 or archive.read(order).strip() != b"little"):
            raise ExportError("The file was written on a big-endian machine: save it again on a little-endian one.")

        def resolve(identifier: Any) -> _Storage:
            storage = _described_storage(identifier, storages)
            if storage.position is None:
                info = entries[f"{folder}data/{storage.key}"]
                if info.file_size != storage.size:
                    raise ExportError(DAMAGED)
                storage.position = _begin_of(file, info)
                storage.check = lambda: _checked(archive, info)
            return storage

        return read_pickle(io.BytesIO(archive.read(pickles[0])), resolve)
    except _ZIP_ERRORS:
        raise ExportError(DAMAGED) from None


_ZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, struct.error, KeyError, IndexError, ValueError, TypeError, OverflowError),
    *(EOFError, NotImplementedError, RuntimeError, OSError),
)


def _begin_of(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Where an uncompressed entry's bytes begin: after its own header, which may be longer than the directory says."""
    file.seek(info.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise ExportError(DAMAGED)
    name, extra = struct.unpack("<HH", header[26:30])
    return int(info.header_offset + 30 + name + extra)


def _checked(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    try:
        return archive.read(info)
    except _ZIP_ERRORS:
        raise ExportError(DAMAGED) from None


def _read_legacy(file: BinaryIO, size: int) -> Any:
    """Read five pickles (magic number, version, system, the object, the storages' keys), then the storages' places."""
    storages: dict[str, _Storage] = {}
    try:
        magic = read_pickle(file)
    except ExportError:
        magic = None
    if magic != _LEGACY_MAGIC:
        raise ExportError("The file is damaged, or torch did not write it: choose another file.")
    version, system = read_pickle(file), read_pickle(file)
    if version != 1001 or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ExportError("The file was written by an unknown version of torch: save it again with a current one.")

    def resolve(identifier: Any) -> Any:
        # The old format saves a module's class together with its source code. Keep the name and ignore the code.
        if isinstance(identifier, tuple) and len(identifier) == 4 and identifier[0] == "module":
            return identifier[1]
        return _described_storage(identifier, storages)

    value = read_pickle(file, resolve)
    keys = read_pickle(file)
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in storages for key in keys):
        raise ExportError(DAMAGED)
    for key in keys:
        storage = storages[key]
        if int.from_bytes(file.read(8), "little") != storage.count:
            raise ExportError(DAMAGED)
        storage.position = file.tell()
        if file.seek(storage.size, io.SEEK_CUR) > size:
            raise ExportError(DAMAGED)
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
    if not kind.name.startswith("torch.") or isinstance(count, bool) or not 0 <= count <= _MAX_COUNT:
        raise ExportError(DAMAGED)
    storage = storages.setdefault(key, _Storage(kind.name.removeprefix("torch."), key, count))
    if storage.count != count or kind.name != f"torch.{storage.kind}":
        raise ExportError(DAMAGED)
    return storage


class _PlainValues:
    """Converts records to arrays and dictionaries: each shared part once, and no more bytes in all than a file may have."""

    def __init__(self, file: BinaryIO, first_row: int) -> None:
        self._file = file
        self._first_row = first_row
        self._done: dict[int, Any] = {}
        self._bytes_left = {"read": MAX_TENSOR_BYTES, "made": MAX_TENSOR_BYTES}

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
        if not isinstance(storage, _Storage) or len(record.size) != len(record.stride):
            raise ExportError(DAMAGED)
        count = math.prod(record.size)
        last = record.offset + sum((n - 1) * step for n, step in zip(record.size, record.stride, strict=True))
        # A view must not be larger than its storage, or a file of a few bytes could allocate all memory.
        if count > storage.count or (count and last >= storage.count):
            raise ExportError(DAMAGED)
        skipped = self._first_row
        if skipped and len(record.size) == 2 and record.size[0] > skipped:
            rest = (record.size[0] - skipped, record.size[1])
            return self._array(replace(record, offset=record.offset + skipped * record.stride[0], size=rest))
        self._spend("made", count * storage.width)
        if not count:
            return np.zeros(0, dtype="<f4" if storage.kind == "BFloat16Storage" else storage.dtype)
        values = storage.values(
            self._file, record.offset, last - record.offset + 1, lambda size: self._spend("read", size)
        )
        strides = [step * storage.width for step in record.stride]
        view: npt.NDArray[Any] = np.lib.stride_tricks.as_strided(values, record.size, strides, writeable=False)
        return np.array(view)

    def _spend(self, what: str, size: int) -> None:
        self._bytes_left[what] -= size
        if self._bytes_left[what] < 0:
            raise ExportError(TOO_LARGE)
