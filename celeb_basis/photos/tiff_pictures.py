"""The pictures inside of TIFF files and cameras' raw files, and which of them to take."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from celeb_basis.errors import PhotoError

MOST_DIRECTORIES = 64
MOST_STRIPS = 100_000
LARGEST_TAGS = 64 << 20
"""Bytes of the values of one directory's tags."""

LARGEST_TILE = 64 << 20
"""Bytes of one tile or strip beyond what the picture itself takes."""

SMALLEST_PREVIEW = 512
"""Pixels of the longer side: of smaller pictures in a raw file nobody can be learned."""

_SEARCHED = 48 << 20
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_FRAME = re.compile(rb"\xff[\xc0-\xc2]..\x08(..)(..)[\x01\x03\x04]", re.DOTALL)
_RAW_HEADS = (b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FUJIFILMCCD-RAW", b"FOVb", b"\0MRM")


@dataclass(frozen=True)
class Directory:
    """One picture's directory."""

    number: int | None
    """Its place in the file's chain; ``None`` for one that another refers to."""
    width: int
    height: int
    kind: int
    """The tag for the kind of colors; 32803 and 34892 are a sensor's values."""
    compression: int
    reduced: bool
    jpeg: tuple[int, int] | None
    """Offset and length of a JPEG that holds the picture."""


@dataclass(frozen=True)
class Choice:
    """Which picture of a file to read."""

    frame: int = 0
    """Number of the page."""
    jpeg: tuple[int, int] | None = None
    """Offset and length of a JPEG to read in its place."""
    orientation: int = 1
    """The file's, for a JPEG without its own."""


def is_raw(file: IO[bytes]) -> bool:
    """Whether it is a camera's file that is not built like a TIFF."""
    head = _at(file, 0, 32)
    return head.startswith(_RAW_HEADS) or head[4:12] == b"ftypcrx "


def choose_picture(file: IO[bytes], name: str) -> Choice:
    """The first picture of a TIFF, or the largest readable one if that is a thumbnail.

    Raises:
        PhotoError: It is a raw photo without a picture that can be read, or its directories are hostile.
    """
    if is_raw(file):
        return _largest_jpeg(file, name)
    reader = _Reader(file, name)
    directories = list(reader.directories())
    if not directories:
        return Choice()
    first = directories[0]
    sensor = reader.is_raw or any(one.kind in (32803, 34892) for one in directories)
    readable = [one for one in directories if one.kind not in (32803, 34892) and (one.number is not None or one.jpeg)]
    readable = [
        one for one in readable if one.jpeg or one.compression not in (34713, 34892, 65000, 65535, 32767, 32770)
    ]
    if not readable:
        raise PhotoError(_raw(name, "which holds no picture that can be read"))
    best = max(readable, key=lambda one: (one.width * one.height, one is first))
    if best is not first and first in readable and not sensor and not first.reduced:
        thumbnail = best.width * best.height >= 4 * first.width * first.height
        best = best if thumbnail else first
    if sensor and max(best.width, best.height) < SMALLEST_PREVIEW:
        raise PhotoError(_raw(name, f"whose only readable picture has {best.width} x {best.height} pixels"))
    if best.jpeg is not None and best is not first:
        return Choice(jpeg=best.jpeg, orientation=reader.orientation)
    if best.jpeg is not None and sensor:
        return Choice(jpeg=best.jpeg, orientation=reader.orientation)
    return Choice(frame=best.number or 0)


def _raw(name: str, what: str) -> str:
    suffix = name.rpartition(".")[2].upper()
    kind = (
        f"a raw photo ({suffix})" if 2 <= len(suffix) <= 4 and suffix not in ("TIF", "TIFF") else "a camera's raw photo"
    )
    return (
        f"{name} is {kind} {what}: open it in your camera's program or another one for raw photos, and export a JPEG."
    )


def _largest_jpeg(file: IO[bytes], name: str) -> Choice:
    """The largest JPEG among the first bytes of a raw file."""
    data = _at(file, 0, _SEARCHED)
    best, place = 0, None
    for number, start in enumerate(match.start() for match in re.finditer(rb"\xff\xd8\xff", data)):
        if number == 200:
            break
        frame = _FRAME.search(data, start, start + 262_144)
        if frame is not None:
            height, width = (int.from_bytes(part, "big") for part in frame.groups())
            if width * height > best and max(width, height) <= 20_000:
                best, place, size = width * height, start, max(width, height)
    if place is None or size < SMALLEST_PREVIEW:
        raise PhotoError(_raw(name, "which holds no picture that can be read"))
    return Choice(jpeg=(place, 0))


class _Reader:
    """Reads directories, without ever reading one twice."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file, self._name = file, name
        head = _at(file, 0, 16)
        self._order = "<" if head[:2] == b"II" else ">"
        self._big = head[2:4] in (b"+\0", b"\0+")
        self.orientation = 1
        self.is_raw = head[8:10] == b"CR"
        self._start = self._int(head[8:16] if self._big else head[4:8])
        self._left = MOST_DIRECTORIES
        self._seen: set[int] = set()

    def _int(self, data: bytes) -> int:
        return int.from_bytes(data, "little" if self._order == "<" else "big")

    def directories(self) -> Iterator[Directory]:
        """The pictures of the chain and those that its directories refer to."""
        offset, number = self._start, 0
        while offset and offset not in self._seen and self._left > 0:
            tags, following = self._tags(offset)
            if tags is None:
                return
            if number == 0:
                self.orientation = self._one(tags, 274, 1)
                self.is_raw |= 50706 in tags  # DNG's version
            yield self._directory(tags, number)
            for inner in self._values(tags, 330)[:16]:
                if inner not in self._seen and self._left > 0:
                    inner_tags, _ = self._tags(inner)
                    if inner_tags is not None:
                        yield self._directory(inner_tags, None)
            for pointer in (34665, 34853, 40965):  # Pillow reads these with the picture
                if pointer in tags and (place := self._one(tags, pointer, 0)) not in self._seen:
                    self._tags(place)
            offset, number = following, number + 1

    def _tags(self, offset: int) -> tuple[dict[int, tuple[int, int, bytes]] | None, int]:
        """Type, count and value or offset by tag, and the offset of the next directory."""
        self._seen.add(offset)
        self._left -= 1
        width, entry = (8, 20) if self._big else (2, 12)
        count = self._int(_at(self._file, offset, width))
        data = _at(self._file, offset + width, min(count, 4097) * entry + (8 if self._big else 4))
        if count > 4096:
            raise PhotoError(self._hostile(f"{count:,} entries in a directory"))
        if len(data) < count * entry:
            return None, 0
        tags: dict[int, tuple[int, int, bytes]] = {}
        total = 0
        for start in range(0, count * entry, entry):
            tag, kind = struct.unpack_from(f"{self._order}HH", data, start)
            values = self._int(data[start + 4 : start + (12 if self._big else 8)])
            tags[tag] = kind, values, data[start + (12 if self._big else 8) : start + entry]
            size = values * _SIZES.get(kind, 1)
            total += size if size > (8 if self._big else 4) else 0
        if total > LARGEST_TAGS:
            raise PhotoError(self._hostile(f"{total >> 20:,} MB in the tags of a directory, such as layers"))
        return tags, self._int(data[count * entry :])

    def _hostile(self, what: str) -> str:
        return f"{self._name} is a TIFF with {what}: save it as a JPEG or a flat TIFF."

    def _values(self, tags: dict[int, tuple[int, int, bytes]], tag: int) -> list[int]:
        """The first numbers of a tag."""
        kind, count, field = tags.get(tag, (0, 0, b""))
        size = _SIZES.get(kind, 0)
        if kind not in (1, 3, 4, 13, 16, 18) or not count:
            return []
        wanted = min(count, 64) * size
        data = field[:wanted] if count * size <= len(field) else _at(self._file, self._int(field), wanted)
        return [self._int(data[start : start + size]) for start in range(0, len(data) - size + 1, size)]

    def _one(self, tags: dict[int, tuple[int, int, bytes]], tag: int, default: int) -> int:
        return next(iter(self._values(tags, tag)), default)

    def _directory(self, tags: dict[int, tuple[int, int, bytes]], number: int | None) -> Directory:
        width, height = self._one(tags, 256, 0), self._one(tags, 257, 0)
        compression = self._one(tags, 259, 1)
        depth = max(self._values(tags, 258), default=1) * max(1, self._one(tags, 277, 1))
        for tag in (273, 279, 324, 325):
            if tags.get(tag, (0, 0, b""))[1] > MOST_STRIPS:
                raise PhotoError(self._hostile(f"more than {MOST_STRIPS:,} strips or tiles"))
        tile = self._one(tags, 322, 0) * self._one(tags, 323, 0)
        if tile * depth // 8 > LARGEST_TILE:
            raise PhotoError(self._hostile("tiles that are larger than pictures"))
        jpeg = None
        if (start := self._one(tags, 513, 0)) and (length := self._one(tags, 514, 0)):
            jpeg = self._jpeg(start, length)
        elif compression in (6, 7) and tags.get(273, (0, 0, b""))[1] == 1:
            jpeg = self._jpeg(self._one(tags, 273, 0), self._one(tags, 279, 0))
        elif 46 in tags and tags[46][0] == 7:  # Panasonic's
            jpeg = self._jpeg(self._int(tags[46][2]), tags[46][1])
        if jpeg is not None and (frame := _FRAME.search(_at(self._file, jpeg[0], 262_144))):
            height, width = (int.from_bytes(part, "big") for part in frame.groups())
        elif jpeg is not None:
            jpeg = None  # a sensor's values in lossless JPEG
            return Directory(number, width, height, 32803, compression, True, None)
        return Directory(
            number, width, height, self._one(tags, 262, 2), compression, bool(self._one(tags, 254, 0) & 1), jpeg
        )

    def _jpeg(self, start: int, length: int) -> tuple[int, int] | None:
        """A JPEG's place if a whole one begins there; one without tables, as in some TIFFs, is left to the TIFF's reader."""
        head = _at(self._file, start, 65_536)
        whole = head.startswith(b"\xff\xd8\xff") and (b"\xff\xdb" in head or re.search(rb"\xff\xc3", head[:4096]))
        return (start, length) if whole else None


def _at(file: IO[bytes], position: int, length: int) -> bytes:
    file.seek(position)
    return file.read(length)
