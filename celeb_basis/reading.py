"""Reading of files that anybody may have made: JSON, YAML and safetensors, with bounds on what is read and what it becomes."""

from __future__ import annotations

import bisect
import json
import math
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from celeb_basis.errors import CelebBasisError
from celeb_basis.files import explained_os_errors, open_regular, read_bytes

MAX_DESCRIPTION = 256 << 10
"""Largest description of an identity, in bytes of UTF-8."""

MAX_HEADER = 1 << 20
"""Largest header, in bytes, of a small safetensors file: an identity or an embedding."""

MAX_LARGE_HEADER = 24 << 20
"""Largest header, in bytes, of a checkpoint, a learning state or a cache. Trainers write long texts into them."""

MAX_TENSOR_BYTES = 16 << 20
"""Most bytes of tensors that are read from a small safetensors file."""

_MAX_YAML = 64 << 10  # those of checkpoints have some thousand bytes, and reading them is slow
_MAX_MERGES = 4
_MAX_VALUES = 1_000_000
_MAX_DEPTH = 64
_MAX_DIGITS = 4300
_MAX_DIMENSIONS = 8
_FIRST_READ = 4 << 10
"""Bytes read at once from the start of a safetensors file: the header of an identity, and no thumbnail behind it."""

_NO_SAFETENSORS = "It is no safetensors file, or a damaged or incomplete one: take another copy of it."

# NumPy type of each type of tensor. NumPy has no bfloat16, so its bits are read as integers and upcast by hand.
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "<u1",
    "BOOL": "?",
}


_WIDTHS = {name: np.dtype(numpy).itemsize for name, numpy in _DTYPES.items()}


class UnreadableError(ValueError):
    """A file breaks its format's rules or a bound. The text is a sentence about the file, which begins with "It"."""


def parse_json(text: str | bytes, *, most_values: int = _MAX_VALUES) -> Any:
    """Parse JSON whose values, depth and lengths of numbers are bounded.

    Args:
        text: The JSON. The caller bounds its length.
        most_values: Most values that it may hold.

    Raises:
        ValueError: It is no JSON, or exceeds a bound.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    brackets = text.count("[") + text.count("{")
    if brackets + text.count(",") > most_values:
        raise ValueError("too many values")
    try:
        value = json.loads(text, parse_int=_PARSE_INT)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if brackets > _MAX_DEPTH and _deeper(value, _MAX_DEPTH):
        raise ValueError("nested too deeply")
    return value


def read_json(path: Path, *, most_bytes: int = MAX_LARGE_HEADER) -> Any:
    """Read the JSON file ``path``.

    Raises:
        FileError: It cannot be read, or is not an ordinary file.
        ValueError: It is no JSON, or exceeds a bound.
    """
    data = read_bytes(path, most_bytes)
    if len(data) > most_bytes:
        raise ValueError(f"more than {most_bytes:,} bytes")
    return parse_json(data)


def read_yaml(path: Path) -> Any:
    """Read the YAML file ``path``, the config of a checkpoint.

    Raises:
        FileError: It cannot be read, or is not an ordinary file.
        UnreadableError: It is too large.
        ValueError: It is no YAML.
    """
    import yaml  # type: ignore[import-untyped]

    data = read_bytes(path, _MAX_YAML)
    if len(data) > _MAX_YAML or data.count(b"<<") > _MAX_MERGES:  # each merge may double what comes before it
        raise UnreadableError("It is too large for the config of a checkpoint: repair it or take it away.")
    try:
        return yaml.safe_load(data)
    except (yaml.YAMLError, TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _int(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError("a number is too long")
    return int(text)


# Newer versions of Python bound the digits of a number themselves, and parse faster without a function of ours.
_PARSE_INT = None if hasattr(sys, "get_int_max_str_digits") else _int


def _deeper(value: Any, depth: int) -> bool:
    """Whether ``value`` is nested more than ``depth`` levels deep."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(depth):
        inner = (item for outer in level for item in (outer.values() if isinstance(outer, dict) else outer))
        level = [item for item in inner if isinstance(item, (dict, list))]
        if not level:
            return False
    return True


# Safetensors


@dataclass(frozen=True)
class TensorEntry:
    """What a header says about one tensor."""

    dtype: str
    """The format's name, such as ``"F32"``."""
    shape: tuple[int, ...]
    begin: int
    """First byte, counted from the end of the header."""
    end: int
    """Byte after the last one."""


@dataclass(frozen=True)
class Header:
    """The checked header of a safetensors file."""

    metadata: Mapping[str, str]
    entries: Mapping[str, TensorEntry]
    start: int
    """Where the tensors begin in the file, in bytes."""
    first: bytes = field(default=b"", repr=False)
    """The first bytes of the file, which need not be read again."""


def is_safetensors(path: Path) -> bool:
    """Whether ``path`` begins as a safetensors file does."""
    with explained_os_errors(path, "read"), open_regular(path) as file:
        start = file.read(9)
    return len(start) == 9 and start.endswith(b"{") and int.from_bytes(start[:8], "little") <= MAX_LARGE_HEADER


def read_header(file: BinaryIO, *, most_bytes: int = MAX_HEADER) -> Header:
    """Read and check the header of a safetensors file: what the format's own library checks, and its size.

    Args:
        file: The file, opened for reading.
        most_bytes: Largest header that is read.

    Raises:
        UnreadableError: It is no such file, or its header is too large.
    """
    content, metadata, start, size, first = _header(file, most_bytes)
    try:
        entries = {name: _entry(**described) for name, described in content.items()}
    except (ValueError, TypeError):
        raise UnreadableError(_NO_SAFETENSORS) from None
    # Tensors follow each other without gaps or overlaps, to the end of the file.
    end = 0
    for entry in sorted(entries.values(), key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != end or entry.end < end:
            raise UnreadableError(_NO_SAFETENSORS)
        end = entry.end
    if start + end != size:
        raise UnreadableError(_NO_SAFETENSORS)
    return Header(metadata, entries, start, first)


def _header(file: BinaryIO, most_bytes: int) -> tuple[dict[str, Any], dict[str, str], int, int, bytes]:
    """What a header says about tensors, its metadata, where the tensors begin, the file's size, and its first bytes."""
    size = file.seek(0, 2)
    file.seek(0)
    first = file.read(_FIRST_READ)
    length = int.from_bytes(first[:8], "little")
    if len(first) < 10 or first[8:9] != b"{" or length > size - 8:
        raise UnreadableError(_NO_SAFETENSORS)
    if length > most_bytes:
        raise UnreadableError(
            f"Its header has {length >> 10:,} KB, more than the {most_bytes >> 10:,} KB that are read: take another copy of it."
        )
    raw = first[8 : 8 + length]
    if len(raw) < length:
        raw += file.read(length - len(raw))
    try:
        content = parse_json(raw)
        metadata = content.pop("__metadata__", None) or {}
    except (ValueError, TypeError, AttributeError):
        raise UnreadableError(_NO_SAFETENSORS) from None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise UnreadableError("Its header is damaged: take another copy of it.")
    return content, metadata, 8 + length, size, first


def _entry(dtype: str, shape: list[int], data_offsets: list[int]) -> TensorEntry:
    begin, end = data_offsets
    if len(shape) > _MAX_DIMENSIONS:
        raise ValueError("too many dimensions")
    for number in (*shape, begin, end):
        if type(number) is not int or not 0 <= number < 2**48:
            raise ValueError("no sizes")
    if not isinstance(dtype, str) or (dtype in _WIDTHS and math.prod(shape) * _WIDTHS[dtype] != end - begin):
        raise ValueError("another size")
    return TensorEntry(dtype, tuple(shape), begin, end)


def read_tensors(
    file: BinaryIO,
    header: Header,
    *,
    skip: Collection[str] = (),
    first_row: int = 0,
    most_bytes: int = MAX_TENSOR_BYTES,
) -> dict[str, npt.NDArray[Any]]:
    """Read the tensors of a safetensors file. Those in bfloat16 become float32.

    Args:
        file: The file.
        header: Its header.
        skip: Names of tensors that are not read.
        first_row: Tables of more rows than this are read from this row on.
        most_bytes: Most bytes that are read.

    Raises:
        UnreadableError: There are more bytes, or tensors of unknown types.
    """
    wanted = {name: _rows_from(entry, first_row) for name, entry in header.entries.items() if name not in skip}
    total = sum((entry.end - entry.begin) * (2 if entry.dtype == "BF16" else 1) for entry in wanted.values())
    if total > most_bytes:
        raise UnreadableError(
            f"It holds {total >> 20:,} MB of numbers, more than the {most_bytes >> 20} MB that are read: choose another file."
        )
    found: dict[str, npt.NDArray[Any]] = {}
    parts = _parts(file, header, wanted.values())
    begins = [begin for begin, _ in parts]
    for name, entry in wanted.items():
        if entry.dtype not in _DTYPES:
            raise UnreadableError(f"It holds a tensor of type {entry.dtype[:20]!a}: save it in float32.")
        begin, part = parts[bisect.bisect_right(begins, entry.begin) - 1]
        data = part[entry.begin - begin : entry.end - begin]
        try:
            array = np.frombuffer(data, _DTYPES[entry.dtype]).reshape(entry.shape)
        except ValueError:  # cut while it was being read, or sizes that NumPy does not have
            raise UnreadableError(_NO_SAFETENSORS) from None
        found[name] = (array.astype("<u4") << 16).view("<f4") if entry.dtype == "BF16" else array
    return found


def _parts(file: BinaryIO, header: Header, entries: Iterable[TensorEntry]) -> list[tuple[int, bytes]]:
    """The bytes of tensors, each byte read once and neighbors together: where each part begins, and its bytes."""
    spans: list[tuple[int, int]] = []
    for begin, end in sorted((entry.begin, entry.end) for entry in entries):
        if spans and spans[-1][1] == begin:
            spans[-1] = spans[-1][0], end
        else:
            spans.append((begin, end))
    parts = []
    for begin, end in spans:
        data = header.first[header.start + begin : header.start + end]
        if len(data) < end - begin:
            file.seek(header.start + begin + len(data))
            data += file.read(end - begin - len(data))
        parts.append((begin, data))
    return parts


def _rows_from(entry: TensorEntry, first: int) -> TensorEntry:
    rows = entry.shape[0] if len(entry.shape) == 2 else 0
    if not first or rows <= first:
        return entry
    begin = entry.begin + (entry.end - entry.begin) // rows * first
    return replace(entry, shape=(rows - first, entry.shape[1]), begin=begin)


def safetensors_metadata(path: Path, *, most_bytes: int = MAX_LARGE_HEADER) -> dict[str, str]:
    """The metadata in a safetensors file's header, without reading its tensors; empty for any other file."""
    try:
        with open_regular(path, buffered=False) as file:
            return _header(file, most_bytes)[1]
    except (OSError, CelebBasisError, UnreadableError):
        return {}


def check_safetensors(path: Path, *, most_bytes: int = MAX_LARGE_HEADER) -> None:
    """Check the header of ``path`` before the format's own library reads it, which bounds nothing.

    Raises:
        FileError: It cannot be read, or is not an ordinary file.
        UnreadableError: It is no safetensors file, or its header is too large.
    """
    with open_regular(path) as file:
        read_header(file, most_bytes=most_bytes)
