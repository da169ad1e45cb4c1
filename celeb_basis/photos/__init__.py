"""Reading any picture file as upright RGB pixels of a reasonable size, or explaining what is wrong with it.

Files are hostile until their headers say what they cost (:mod:`.file_checks`); one is decoded at a time in a process.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from celeb_basis.errors import PhotoError
from celeb_basis.faces.network import Pixels
from celeb_basis.files import explained_os_errors
from celeb_basis.photos.file_checks import check_file, sane_exif, webp_area
from celeb_basis.photos.file_kinds import iso_media_kind, unknown_file
from celeb_basis.photos.tiff_pictures import Choice, choose_picture, is_raw

SMALLEST_SIDE = 32
"""Pixels. A smaller picture cannot show a recognizable face."""

LARGEST_SIDE = 20_000
LARGEST_AREA = 250_000_000
"""Pixels of side and area above which a file is refused by its header alone: it may be a decompression bomb."""

LARGEST_BYTES = 200_000_000
"""Bytes of the decoded picture (area x channels x depth). A JPEG is decoded at a fraction of its size to stay below."""

_BYTES_TO_HALVE = 150_000_000

LEAST_SHOWN = 0.9
"""A JPEG that ends early is read, without the missing rows, if it has this share of them."""

WORKING_SIDE = 4096
"""Longer pictures are scaled down to this side in pixels: their faces are still larger than any training picture."""

# Pillow's names. Formats that run other programs (EPS), hold others (ICO, ICNS), or have no signature (TGA) are left out.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "HEIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "QOI")
_TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_PIXEL_BYTES = {"L": 1, **dict.fromkeys(("I;16", "I;16B", "I;16L", "I;16N"), 3)}
_PIXEL_BYTES |= {**dict.fromkeys(("P", "1", "I", "F"), 5), **dict.fromkeys(("PA", "LA", "La"), 8)}
_FORMAT_BYTES = {"WEBP": 8, "AVIF": 8, "HEIF": 8, "JPEG2000": 12}
"""Bytes that a pixel takes in Pillow, where it is not 4, with what its decoder or a conversion needs besides."""

_DECODING = threading.Lock()
_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BACKGROUND = (255, 255, 255)


def open_photo(
    source: Path | str | bytes,
    *,
    name: str | None = None,
    max_pixels: int = LARGEST_AREA,
    working_side: int = WORKING_SIDE,
) -> Pixels:
    """Read a picture file, or the bytes of one, as upright ``(H, W, 3)`` uint8 sRGB.

    EXIF orientation and embedded color profiles are applied, transparent parts become white, animations give their first
    frame, and 16-bit, 32-bit and floating-point gray is converted to 8 bits.

    Args:
        source: The file, or its content.
        name: Name of the picture in messages; the file's name by default.
        max_pixels: Largest area that is decoded.
        working_side: Longer pictures are scaled down to this side in pixels.

    Raises:
        PhotoError: If it is not a picture, or is damaged, too small or too large.
        FileError: If the file cannot be opened.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _read(io.BytesIO(source), name or "The picture", max_pixels, working_side)
    path = Path(source)
    with explained_os_errors(path, "read"):
        kind = os.stat(path).st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        raise PhotoError(f"{name or path.name} is no file but a pipe or a device: save the picture to a file first.")
    with explained_os_errors(path, "read"), open(path, "rb") as file:
        return _read(file, name or path.name, max_pixels, working_side)


def _read(file: IO[bytes], name: str, max_pixels: int, working_side: int) -> Pixels:
    with _DECODING, _explained(file, name):
        choice = Choice()
        file.seek(0)
        if file.read(4) in _TIFF_HEADS or is_raw(file):
            choice = choose_picture(file, name)
        if choice.jpeg is not None:
            start, length = choice.jpeg
            file.seek(start)
            file = io.BytesIO(file.read(min(length or _LARGEST_PREVIEW, _LARGEST_PREVIEW)))
        check_file(file, name)
        if (area := webp_area(file)) * _FORMAT_BYTES["WEBP"] > LARGEST_BYTES:
            raise PhotoError(_too_large(f"{name} is a WebP picture of {area:,} pixels"))
        image = _opened(file)
        if choice.frame:
            image.seek(choice.frame)
        _check_size(image.size, name, max_pixels)
        image = _decode(image, file, name, working_side)
        turn = _turn(image)
        if turn is None and choice.jpeg is not None:
            turn = _TURNS.get(choice.orientation)
        small = _shrunk(image, working_side)
        return np.array(_rgb(small if turn is None else small.transpose(turn)), np.uint8)


_LARGEST_PREVIEW = 64 << 20


def _opened(file: IO[bytes]) -> Image.Image:
    formats = _formats(file)
    try:
        return Image.open(file, formats=formats)
    except Image.DecompressionBombError:
        file.seek(0)
        if file.read(3) != b"\xff\xd8\xff":
            raise
        file.seek(0)
        # A JPEG of more pixels than Pillow opens is decoded at a fraction of its size.
        return cast(Image.Image, Image.OPEN["JPEG"][0](file, ""))


@contextlib.contextmanager
def _explained(file: IO[bytes], name: str) -> Iterator[None]:
    """Turn whatever Pillow raises for a bad file into a :class:`PhotoError`."""
    try:
        with warnings.catch_warnings():
            # Warnings of many pixels, where Pillow's limit is lower than ours, and of damaged EXIF data, which is ignored.
            warnings.simplefilter("ignore")
            yield
    except PhotoError:
        raise
    except (Image.DecompressionBombError, RecursionError) as error:
        raise PhotoError(f"{name} has too many pixels: scale it down to {WORKING_SIDE:,} on the long side.") from error
    except UnidentifiedImageError as error:
        raise PhotoError(unknown_file(file, name)) from error
    except MemoryError as error:
        raise PhotoError(f"{name} is too large for this machine's memory: scale it down.") from error
    except Exception as error:  # Pillow's readers raise whatever a damaged file leads them to
        raise PhotoError(f"{name} is damaged or incomplete ({error}): export or download it again.") from error


def _check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    width, height = size
    shown = f"{name} is {width:,} x {height:,} pixels"
    if min(size) < SMALLEST_SIDE:
        raise PhotoError(f"{shown}, too small to show a face: give a photo of at least {SMALLEST_SIDE} on each side.")
    if max(size) > LARGEST_SIDE or width * height > max_pixels:
        raise PhotoError(_too_large(shown))


def _too_large(shown: str) -> str:
    return f"{shown}, too large to be decoded safely: scale it down to about {WORKING_SIDE:,} on the long side."


def _decode(image: Image.Image, file: IO[bytes], name: str, working_side: int) -> Image.Image:
    """Load the pixels. JPEGs are reduced while they are decoded, to no less than ``working_side`` if memory allows."""
    before = image.size
    if max(image.size) > working_side:
        image.draft(None, _fitted(image.size, working_side))
    while image.format in ("JPEG", "MPO") and _bytes_of(image) > LARGEST_BYTES:
        drafted = image.size
        image.draft(None, (max(1, drafted[0] // 2), max(1, drafted[1] // 2)))
        if image.size == drafted:
            break
    if (size := _bytes_of(image)) > LARGEST_BYTES:
        shown = f"{name} is {before[0]:,} x {before[1]:,} pixels, {size >> 20:,} MB when decoded"
        raise PhotoError(f"{_too_large(shown)[:-1]}, or save it as a JPEG.")
    decoded = image.size
    try:
        image.load()
    except OSError as error:
        if image.format not in ("JPEG", "MPO") or "truncated" not in str(error):
            raise
        return _without_end(image, file, name, decoded)
    if _bytes_of(image) > LARGEST_BYTES:
        raise PhotoError(_too_large(f"{name} is {image.width:,} x {image.height:,} pixels"))
    return image


def _bytes_of(image: Image.Image) -> int:
    per_pixel = max(_PIXEL_BYTES.get(image.mode, 4), _FORMAT_BYTES.get(image.format or "", 0))
    return image.width * image.height * per_pixel


def _without_end(image: Image.Image, file: IO[bytes], name: str, size: tuple[int, int]) -> Image.Image:
    """A JPEG that ends early, without the rows that it lacks.

    Raises:
        PhotoError: More than a few rows are missing.
    """
    rows = []
    # Whatever its own colors are, a row that keeps both paints was not decoded. A last block is always held back.
    for paint in (0, 255):
        again = Image.open(file, formats=["JPEG"])
        again.draft(None, size)
        blank = Image.new(
            again.mode, again.size, (paint,) * len(again.getbands()) if len(again.getbands()) > 1 else paint
        )
        again.im = blank.im
        with contextlib.suppress(OSError):
            again.load()
        rows.append(np.asarray(Image.Image._new(blank, again.im)).reshape(again.height, -1))
    missing = (rows[0] == 0).all(axis=1) & (rows[1] == 255).all(axis=1)
    shown = image.height - int(np.argmin(missing[::-1])) if not missing.all() else 0
    if shown + 32 < LEAST_SHOWN * image.height:
        part = f"the last {1 - shown / image.height:.0%} of its rows are missing" if shown else "most of it is missing"
        raise PhotoError(f"{name} is incomplete, {part}: download or copy it again.")
    file.seek(0)
    whole = Image.open(io.BytesIO(file.read() + b"\xff\xd9"), formats=["JPEG"])
    whole.draft(None, size)
    whole.load()
    # Of the rows that were held back, one block's may still be there.
    end = min(whole.height, shown + 32)
    return _with_info(whole.crop((0, 0, whole.width, end)) if end < whole.height else whole, whole)


def _with_info(image: Image.Image, source: Image.Image) -> Image.Image:
    image.info.update(source.info)
    return image


_XMP_ORIENTATION = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])\s*[\"'<]")


def _turn(image: Image.Image) -> Image.Transpose | None:
    """The transposition that turns a decoded picture upright, if one is needed: EXIF's, or else that of XMP."""
    tiff = image.format == "TIFF"
    with contextlib.suppress(Exception):  # damaged EXIF data is common and no reason to refuse a picture
        # Pillow turns TIFFs while decoding, and some versions leave the tag unchanged.
        if tiff and 0x0112 in image.tag_v2:  # type: ignore[attr-defined]
            return None
        if not tiff and sane_exif(_exif(image)) and (turn := image.getexif().get(0x0112)) is not None:
            return _TURNS.get(turn)
    if image.format in ("AVIF", "HEIF"):
        return None  # these say in their own way how they lie, and are turned already
    with contextlib.suppress(Exception):
        for text in _xmp(image):
            if found := _XMP_ORIENTATION.search(text):
                return _TURNS.get(int(found[1]))
    return None


def _exif(image: Image.Image) -> bytes:
    """The EXIF data of a picture, with that which ImageMagick writes into PNG as text."""
    if isinstance(data := image.info.get("exif"), bytes):
        return data
    text = image.info.get("Raw profile type exif")
    return bytes.fromhex("".join(str(text).split("\n")[3:])) if text else b""


def _xmp(image: Image.Image) -> Iterator[bytes]:
    """Everything in a picture that may be XMP."""
    texts = [image.info.get("xmp"), image.info.get("XML:com.adobe.xmp")]
    texts += [data for marker, data in getattr(image, "applist", []) if marker == "APP1"]
    if image.format == "TIFF" and "xmp" not in image.info:
        # Newer versions of Pillow turn by this, too, and take it out of the information.
        texts.append(image.tag_v2.get(700))  # type: ignore[attr-defined]
    for text in texts:
        if text:
            yield (text if isinstance(text, bytes) else str(text).encode(errors="replace"))[: 4 << 20]


def _fitted(size: tuple[int, int], side: int) -> tuple[int, int]:
    """``size`` scaled so that the longer side is ``side``; at least one pixel, however thin."""
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _shrunk(image: Image.Image, working_side: int) -> Image.Image:
    size = _fitted(image.size, working_side)
    image = _eight_bit(image)
    if max(image.size) <= working_side:
        return image
    if _bytes_of(image) > _BYTES_TO_HALVE:
        image = _plain(image).reduce(2)  # a finer filter would need as much memory again
        if max(image.size) <= working_side:
            return image
    return _plain(image).resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)


def _rgb(image: Image.Image) -> Image.Image:
    image = _plain(image)
    if image.mode == "RGBA":
        background = Image.new("RGBA", image.size, (*_BACKGROUND, 255))
        flat = Image.alpha_composite(background, image).convert("RGB")
        flat.info["icc_profile"] = image.info.get("icc_profile")
        image = flat
    return _srgb(image).convert("RGB")


def _plain(image: Image.Image) -> Image.Image:
    """The picture as L, RGB, RGBA, CMYK or another mode that can be scaled: no palette, no transparent color."""
    if image.mode in ("LA", "La", "PA", "RGBa") or "transparency" in image.info:
        return image.convert("RGBA")
    if image.mode in ("P", "1"):
        return image.convert("RGB")
    return image


def _srgb(image: Image.Image) -> Image.Image:
    """Apply an embedded color profile (Display P3 of phones, CMYK of printers); an unusable one is ignored."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "CMYK", "LAB"):
        return image
    try:
        from PIL import ImageCms

        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(
            image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), srgb, outputMode="RGB"
        )
    except (ImportError, OSError, ValueError, TypeError, ImageCms.PyCMSError):
        return image
    return converted if converted is not None else image


def _eight_bit(image: Image.Image) -> Image.Image:
    """Convert deep gray to L. The range is the file type's where that defines it, else guessed from the largest value."""
    if image.mode not in _DEEP_MODES:
        return image
    bands = list(range(0, image.height, max(1, _BAND // image.width)))
    white = 65535.0
    # "I" usually holds 16 bits, but a 32-bit file may hold anything.
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        largest = max(float(_values(image, top).max(initial=0.0)) for top in bands)
        limits = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        white = next((limit for limit in limits if largest <= limit), largest)
    gray = np.empty((image.height, image.width), np.uint8)
    for top in bands:
        values = _values(image, top)
        gray[top : top + len(values)] = np.clip(values * (255.0 / white) + 0.5, 0, 255)
    return Image.fromarray(gray)


_BAND = 4_000_000
"""Pixels of deep gray that are converted at once."""


def _values(image: Image.Image, top: int) -> npt.NDArray[np.float32]:
    """Some rows of a deep gray picture."""
    bottom = min(image.height, top + max(1, _BAND // image.width))
    whole = top == 0 and bottom == image.height
    values = np.asarray(image if whole else image.crop((0, top, image.width, bottom)), np.float32)
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0) if image.mode == "F" else values


def _formats(file: IO[bytes]) -> list[str]:
    """Our formats that this Pillow can read, with a plug-in for AVIF or HEIC if one is installed."""
    Image.init()
    kind = iso_media_kind(file)
    with contextlib.suppress(Exception):  # no plug-in, or a broken one: the message says what to install
        if kind == "AVIF" and "AVIF" not in Image.OPEN:
            __import__("pillow_avif")
        if kind == "HEIC" and "HEIF" not in Image.OPEN:
            __import__("pillow_heif").register_heif_opener()
    return [name for name in _FORMATS if name in Image.OPEN]
