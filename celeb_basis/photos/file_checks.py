"""What a picture file costs to decode, found out from its headers, so that a hostile one is refused before it is decoded."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import IO

from celeb_basis.errors import PhotoError

LARGEST_HEADERS = 24 << 20
"""Bytes of metadata in a file."""

LARGEST_EXIF = 4 << 20

MOST_SEGMENTS = 2_000
"""Segments of metadata; Pillow takes a few microseconds for each."""

MOST_CHUNKS = 100_000
"""Chunks of a PNG."""

MOST_SCANS = 100
SCANNED_PIXELS = 1_500_000_000
"""Scans of a JPEG, and scans times pixels: each goes over the whole picture. Ordinary progressive files have about 10."""

LARGEST_COEFFICIENTS = 200_000_000
"""Bytes that a JPEG of several scans needs for its coefficients."""

PYTHON_SAMPLES = 2_000_000
"""Values that Pillow may decode in Python, at about a microsecond each: QOI, plain PPM, BMP with run lengths."""

_SIMPLER = "save it as an ordinary JPEG or PNG with any image program."


def check_file(file: IO[bytes], name: str) -> None:
    """Refuse a file whose decoding would cost far more than its picture is worth. Leaves the file at its start.

    Raises:
        PhotoError: If it would.
    """
    file.seek(0)
    head = file.read(64)
    if head[:3] == b"\xff\xd8\xff":
        _check_jpeg(file, name)
    elif head[:8] == b"\x89PNG\r\n\x1a\n":
        _check_png(file, name)
    elif head[:3] == b"GIF":
        _check_gif(file, name)
    elif head[:4] == b"qoif":
        width, height = struct.unpack_from(">II", head, 4)
        _check_python(width * height, "QOI", name)
    elif re.match(rb"P[1-7fFy]", head):
        _check_ppm(file, name)
    elif head[:2] == b"BM" and struct.unpack_from("<I", head, 14)[0] >= 40:
        width, height, _, _, compression = struct.unpack_from("<iiHHI", head, 18)
        if compression in (1, 2):
            _check_python(abs(width * height), "run-length BMP", name)
    file.seek(0)


def webp_area(file: IO[bytes]) -> int:
    """Pixels of a WebP's canvas, for which its decoder takes memory when the file is opened; 0 for any other file."""
    file.seek(0)
    head = file.read(40)
    file.seek(0)
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP" or len(head) < 30:
        return 0
    if head[12:16] == b"VP8X":
        width, height = (int.from_bytes(head[start : start + 3], "little") + 1 for start in (24, 27))
    elif head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", head, 26))
    return width * height


def sane_exif(data: bytes) -> bool:
    """Whether EXIF data can be read without reading the same bytes many times over, as Pillow does for each entry."""
    data = data.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        return True
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    if start + 2 > len(data):
        return True
    (count,) = struct.unpack_from(f"{order}H", data, start)
    total = 0
    for entry in range(start + 2, min(start + 2 + 12 * count, len(data) - 11), 12):
        kind, values = struct.unpack_from(f"{order}HI", data, entry + 2)
        size = values * _SIZES.get(kind, 1)
        total += size if size <= len(data) else 0  # Pillow reads no more than is there, and stops
    return total <= 2 * len(data) + 65_536


_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}


def _check_python(samples: int, kind: str, name: str) -> None:
    if samples > PYTHON_SAMPLES:
        raise PhotoError(f"{name} is a large {kind} picture, which takes too long to decode: {_SIMPLER}")


def _check_jpeg(file: IO[bytes], name: str) -> None:
    position, segments, fillers, exif = 2, 0, 0, b""
    area = coefficients = 0
    while True:
        file.seek(position)
        head = file.read(20)
        if len(head) < 4 or head[0] != 0xFF:
            return  # not a JPEG's structure: Pillow says so
        marker = head[1]
        if marker in (0x00, 0xFF):
            position, fillers = position + 1, fillers + 1
        elif marker in range(0xD0, 0xD9) or marker == 0x01:
            position, fillers = position + 2, fillers + 1
        else:
            (length,) = struct.unpack_from(">H", head, 2)
            if marker == 0xDA:
                break
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(head) >= 10:
                height, width, components = struct.unpack_from(">HHB", head, 5)
                area = width * height
                sampling = [byte >> 4 and (byte >> 4) * (byte & 15) for byte in head[11:20:3][:components]]
                share = sum(sampling) / max(sampling, default=1) if any(sampling) else components
                coefficients = round(2 * area * max(share, 1))
            elif marker == 0xE1:
                file.seek(position + 4)
                payload = file.read(length - 2) if length > 2 else b""
                exif += payload[6:] if exif and payload[:4] == b"Exif" else payload if payload[:4] == b"Exif" else b""
            position, segments = position + 2 + length, segments + 1
        if (
            len(exif) > LARGEST_EXIF
            or segments > MOST_SEGMENTS
            or fillers > MOST_SEGMENTS
            or position > LARGEST_HEADERS
        ):
            raise PhotoError(f"{name} holds far more metadata than a photo has: {_SIMPLER}")
    if not sane_exif(exif):
        raise PhotoError(f"{name} has EXIF data that refers to itself many times: {_SIMPLER}")
    allowed = min(MOST_SCANS, SCANNED_PIXELS // max(area, 1))
    scans = _fewer_than(file, position, max(2, allowed + 1))
    if scans is None and (scans := _scans(file, position, allowed)) > max(1, allowed):
        raise PhotoError(f"{name} is a JPEG of {scans} scans or more, which takes too long to decode: {_SIMPLER}")
    if coefficients > LARGEST_COEFFICIENTS and (scans is None or scans > 1) and _scans(file, position, 1) > 1:
        raise PhotoError(
            f"{name} is a progressive JPEG of {area / 1e6:,.0f} megapixels, which takes too much memory to decode: save it as "
            "a baseline JPEG, or scale it down."
        )


def _blocks(file: IO[bytes], position: int) -> Iterator[bytes]:
    """The file from a position on, in blocks that overlap by a byte."""
    file.seek(position)
    last = b""
    while block := file.read(1 << 20):
        yield last + block
        last = block[-1:]


def _fewer_than(file: IO[bytes], position: int, limit: int) -> int | None:
    """How often the marker of a scan occurs, which is fast to count; ``None`` if it does as often as ``limit``."""
    count = 0
    for block in _blocks(file, position):
        count += block.count(b"\xff\xda")
        if count >= limit:
            return None
    return count


_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def _scans(file: IO[bytes], position: int, limit: int) -> int:
    """Scans up to the end of the picture, counted no further than one beyond ``limit``; a film may follow the picture."""
    scans, steps = 0, 0
    while scans <= limit and steps < 50_000:
        steps += 1
        file.seek(position)
        found = None
        for index, block in enumerate(_blocks(file, position)):
            if found := _MARKER.search(block):
                position += found.start() + index * (1 << 20) - (1 if index else 0)
                break
        if found is None:
            return scans
        marker = found.group()[1]
        if marker == 0xD9:
            return scans
        scans += marker == 0xDA
        if marker == 0x01 or marker == 0xD8:
            position += 2
            continue
        file.seek(position + 2)
        length = file.read(2)
        position += 2 + max(2, int.from_bytes(length, "big"))
    return scans if scans > limit else limit + 1


def _check_png(file: IO[bytes], name: str) -> None:
    position, chunks, metadata, extra = 8, 0, 0, 0
    while len(head := _at(file, position, 8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        chunks += 1
        if kind not in (b"IDAT", b"fdAT", b"fcTL"):
            metadata, extra = metadata + length, extra + 1
        if kind == b"eXIf" and not (length <= 1 << 20 and sane_exif(_at(file, position + 8, length))):
            raise PhotoError(f"{name} has EXIF data that refers to itself many times: {_SIMPLER}")
        if chunks > MOST_CHUNKS or extra > MOST_SEGMENTS or metadata > LARGEST_HEADERS:
            raise PhotoError(f"{name} holds far more metadata, or parts, than a photo has: {_SIMPLER}")
        if kind == b"IEND":
            return
        position += 12 + length


def _check_gif(file: IO[bytes], name: str) -> None:
    head = _at(file, 0, 13)
    if len(head) < 13:
        return
    position = 13 + (3 << (head[10] & 7) + 1 if head[10] & 0x80 else 0)
    steps = 0
    while (byte := _at(file, position, 1)) == b"!":
        position += 2
        while (size := _at(file, position, 1)) and size != b"\0":
            position += 1 + size[0]
            steps += 1
            if steps > 20_000:
                raise PhotoError(f"{name} holds far more metadata than a photo has: {_SIMPLER}")
        position, steps = position + 1, steps + 1
    del byte


_PPM = re.compile(rb"P(?P<kind>[1-6])(?P<numbers>(?:(?:\s|#[^\n\r]*[\n\r])+\d{1,7}){2,3})")


def _check_ppm(file: IO[bytes], name: str) -> None:
    match = _PPM.match(_at(file, 0, 4096))
    if match is None:
        raise PhotoError(f"{name} is a PPM picture of an unusual kind: {_SIMPLER}")
    kind = int(match["kind"])
    numbers = [int(number) for number in re.findall(rb"\d+", re.sub(rb"#[^\n\r]*", b"", match["numbers"]))]
    samples = numbers[0] * numbers[1] * (3 if kind in (3, 6) else 1)
    largest = numbers[2] if len(numbers) > 2 else 1
    if kind <= 3:
        file.seek(0, 2)
        _check_python(max(samples, file.tell() // 4), "plain PPM", name)
    elif kind in (5, 6) and largest not in (255, 65535):
        _check_python(samples, "PPM", name)


def _at(file: IO[bytes], position: int, length: int) -> bytes:
    file.seek(position)
    return file.read(length)
