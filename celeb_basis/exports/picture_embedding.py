"""Reads the textual inversions that the WebUI's trainer writes into pictures: in a text of the PNG, or in the pixels."""

from __future__ import annotations

import base64
import binascii
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from celeb_basis.errors import ExportError
from celeb_basis.files import open_regular
from celeb_basis.reading import parse_json

READABLE = ("a PNG picture", "a WebP picture")
"""Kinds of pictures in which an embedding is looked for: the others lose bits, or no reader for them is certain to be there."""

_KEYWORD = b"sd-ti-embedding"
_TENSOR = "TORCHTENSOR"
_MAX_TEXT = 12 << 20
_MAX_VALUES = 250_000
_MAX_CHUNKS = 10_000
_MAX_PICTURE = 32 << 20
_MAX_SIDE = 4096


def read_picture_embedding(path: Path, kind: str) -> dict[str, Any]:
    """The WebUI's dictionary in the picture ``path``, with arrays in place of tensors.

    Args:
        path: The picture.
        kind: What kind of picture it is, for messages.

    Raises:
        ExportError: The picture holds no embedding, or a damaged one.
        FileError: It cannot be read.
    """
    if kind not in READABLE:
        raise ExportError(
            f"{path.name} is {kind}, in which embeddings are not looked for: choose the .pt, .safetensors or .png file of the "
            "embedding. To learn a person from a photo, use learn."
        )
    with open_regular(path) as file:
        text = _png_text(file)
    try:
        if text is not None:
            return _dictionary(base64.b64decode(text, validate=False))
        if (hidden := _hidden(path)) is not None:
            return _dictionary(hidden)
    except (ValueError, binascii.Error):
        raise ExportError(
            f"{path.name} is {kind} with an embedding that is damaged or incomplete: use another copy of it, as the file "
            "that the trainer wrote. Sites that show pictures often change them."
        ) from None
    raise ExportError(
        f"{path.name} is {kind}, and holds no embedding: choose the .pt or .safetensors file of the embedding. To learn "
        "a person from a photo, use learn."
    )


def _dictionary(data: bytes) -> dict[str, Any]:
    if len(data) > _MAX_TEXT:
        raise ValueError("too long")
    content = parse_json(data, most_values=_MAX_VALUES)
    parameters = content.get("string_to_param") if isinstance(content, dict) else None
    if not isinstance(parameters, dict):
        raise ValueError("no embedding")
    tensors = {key: _array(value) for key, value in parameters.items()}
    return {"string_to_param": tensors, "step": content.get("step")}


def _array(value: Any) -> npt.NDArray[np.float32]:
    rows = value.get(_TENSOR) if isinstance(value, dict) else None
    if not isinstance(rows, list) or not rows:
        raise ValueError("no tensor")
    try:
        return np.array(rows, dtype=np.float64).astype(np.float32)
    except (TypeError, OverflowError):
        raise ValueError("no numbers") from None


def _png_text(file: BinaryIO) -> bytes | None:
    """The text under the trainer's keyword in a PNG file; ``None`` if there is none."""
    size = file.seek(0, 2)
    file.seek(0)
    if file.read(8) != b"\x89PNG\r\n\x1a\n":
        return None
    for _ in range(_MAX_CHUNKS):
        head = file.read(8)
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        here = file.tell()
        if len(head) < 8 or kind == b"IEND" or here + length > size:
            return None
        if kind in (b"tEXt", b"zTXt", b"iTXt") and file.read(len(_KEYWORD) + 1) == _KEYWORD + b"\0":
            if length > _MAX_TEXT:
                raise ExportError("The picture's text is far too long for an embedding: choose another file.")
            rest = file.read(length - len(_KEYWORD) - 1)
            if kind == b"tEXt":
                return rest
            if kind == b"zTXt":
                return _inflated(rest[1:])
            compressed, (*_, text) = rest[:1] == b"\x01", rest[2:].split(b"\0", 2)
            return _inflated(text) if compressed else text
        file.seek(here + length + 4)
    return None


def _inflated(data: bytes) -> bytes:
    """Decompressed bytes, of which no more than the bound are made."""
    try:
        return zlib.decompressobj().decompress(data, _MAX_TEXT + 1)
    except zlib.error:
        raise ValueError("damaged") from None


# In the pixels: the left block has the lower four bits of each byte, the right one the upper four; black columns beside the
# picture separate them. The lower four bits of their pixels are scrambled, the upper four are an ornament.


def _hidden(path: Path) -> bytes | None:
    """What the trainer hid in the pixels; ``None`` if they hide nothing."""
    pixels = _pixels(path)
    if pixels is None:
        return None
    bright = np.all(pixels > 0, axis=2)
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    if not len(rows):
        return None
    low_bits = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] & np.uint8(0x0F)
    black = np.flatnonzero(low_bits.sum(axis=(0, 2), dtype=np.int64) == 0)
    if len(black) < 2:
        return None
    lower, upper = (_unscrambled(block) for block in (low_bits[:, : black[0]], low_bits[:, black[-1] + 1 :]))
    if lower.shape != upper.shape or not lower.size:
        return None
    data = ((upper << 4) | lower).tobytes()
    if data[:1] != b"\x78":  # what zlib writes first
        return None
    return _inflated(data)


def _pixels(path: Path) -> npt.NDArray[np.uint8] | None:
    try:
        with open_regular(path) as file, Image.open(file, formats=("PNG", "WEBP")) as image:
            if max(image.size) > _MAX_SIDE or file.seek(0, 2) > _MAX_PICTURE:
                return None
            return np.array(image.convert("RGB"))
    except Exception:  # Pillow's readers raise whatever a damaged file leads them to
        return None


def _unscrambled(block: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Undo the trainer's exclusive or with a linear congruential generator, ``x -> (1664525 x + 1013904223) mod 2**32``."""
    powers = np.full(block.size, 1664525, dtype=np.uint32)
    if block.size:
        powers[0] = 1
    sums = np.cumsum(np.cumprod(powers, dtype=np.uint32), dtype=np.uint32)
    numbers = sums * np.uint32(1013904223) % np.uint32(255)
    # The generator of the trainer starts from its last number modulo 2**32, and gives that modulo 255.
    mask: npt.NDArray[np.uint8] = (numbers.astype(np.uint8) & np.uint8(0x0F)).reshape(block.shape)
    return np.bitwise_xor(block, mask)
