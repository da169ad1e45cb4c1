"""Reading any picture file as upright RGB pixels of a reasonable size, or explaining what is wrong with it."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from celeb_basis.errors import PhotoError
from celeb_basis.faces.network import Pixels
from celeb_basis.files import explained_os_errors

SMALLEST_SIDE = 32
"""Pixels. A smaller picture cannot show a recognizable face."""

LARGEST_SIDE = 20_000
LARGEST_AREA = 120_000_000
"""Pixels of side and area above which a file is refused by its header alone: it may be a decompression bomb."""

WORKING_SIDE = 4096
"""Longer pictures are scaled down to this side in pixels: their faces are still larger than any training picture."""

# Pillow's names. Formats that run other programs (EPS) or have no signature (TGA) are left out on purpose.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "HEIF", "GIF", "BMP", "DIB", "TIFF", "JPEG2000", "PPM", "QOI", "ICO")
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
    with explained_os_errors(path, "read"), open(path, "rb") as file:
        return _read(file, name or path.name, max_pixels, working_side)


def _read(file: IO[bytes], name: str, max_pixels: int, working_side: int) -> Pixels:
    with _explained(file, name):
        image = Image.open(file, formats=_formats(file))
        _check_size(image.size, name, max_pixels)
        _decode(image, working_side)
        turn = _turn(image)
        small = _shrunk(image, working_side)
        return np.array(_rgb(small if turn is None else small.transpose(turn)), np.uint8)


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
    except Image.DecompressionBombError as error:
        raise PhotoError(f"{name} has too many pixels: scale it down to {WORKING_SIDE:,} on the long side.") from error
    except UnidentifiedImageError as error:
        raise PhotoError(_unknown(file, name)) from error
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
        raise PhotoError(
            f"{shown}, too large to be decoded safely (at most {LARGEST_SIDE:,} on a side and {max_pixels:,} in all): "
            f"scale it down to about {WORKING_SIDE:,} on the long side."
        )


def _decode(image: Image.Image, working_side: int) -> None:
    """Load the pixels. JPEGs are reduced while they are decoded, to no less than ``working_side``."""
    if max(image.size) > working_side:
        image.draft(None, _fitted(image.size, working_side))
    image.load()


def _turn(image: Image.Image) -> Image.Transpose | None:
    """The transposition that turns a decoded picture upright, if one is needed."""
    if image.format == "TIFF":
        return None  # Pillow turns these while decoding, and some versions leave the tag unchanged
    try:
        return _TURNS.get(image.getexif().get(0x0112, 1))
    except Exception:  # damaged EXIF data is common and no reason to refuse a picture
        return None


def _fitted(size: tuple[int, int], side: int) -> tuple[int, int]:
    """``size`` scaled so that the longer side is ``side``; at least one pixel, however thin."""
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _shrunk(image: Image.Image, working_side: int) -> Image.Image:
    size = _fitted(image.size, working_side)
    image = _eight_bit(image)
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
    values = np.nan_to_num(np.asarray(image, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    largest = float(values.max(initial=0.0))
    if image.mode.startswith("I;16"):
        white = 65535.0
    elif image.mode == "F":
        white = next((limit for limit in (1.0, 255.0, 65535.0) if largest <= limit), largest)
    else:  # "I" usually holds 16 bits, but a 32-bit file may hold anything
        white = next((limit for limit in (255.0, 65535.0) if largest <= limit), largest)
        if image.format == "PNG":
            white = 65535.0
    return Image.fromarray(np.clip(values * (255.0 / white) + 0.5, 0, 255).astype(np.uint8))


def _formats(file: IO[bytes]) -> list[str]:
    """Our formats that this Pillow can read, with a plug-in for AVIF or HEIC if one is installed."""
    Image.init()
    kind = _iso_media_kind(file)
    with contextlib.suppress(Exception):  # no plug-in, or a broken one: the message says what to install
        if kind == "AVIF" and "AVIF" not in Image.OPEN:
            __import__("pillow_avif")
        if kind == "HEIC" and "HEIF" not in Image.OPEN:
            __import__("pillow_heif").register_heif_opener()
    return [name for name in _FORMATS if name in Image.OPEN]


def _unknown(file: IO[bytes], name: str) -> str:
    kind = _iso_media_kind(file)
    if kind == "AVIF":
        return (
            f"{name} is an AVIF picture, which this Pillow cannot read: run `python -m pip install pillow-avif-plugin`."
        )
    if kind == "HEIC":
        return f"{name} is an HEIC picture: run `python -m pip install pillow-heif`, or save it as JPEG."
    file.seek(0)
    if not file.read(1):
        return f"{name} is empty: give a picture file such as JPEG or PNG."
    return f"{name} is not a picture that can be read: give a JPEG, PNG, WebP, AVIF, TIFF, GIF or BMP file."


def _iso_media_kind(file: IO[bytes]) -> str:
    """``"AVIF"`` or ``"HEIC"`` by the file's first bytes, or an empty string. Leaves the file at its start."""
    file.seek(0)
    head = file.read(32)
    file.seek(0)
    if head[4:8] != b"ftyp":
        return ""
    brands = {head[start : start + 4] for start in range(8, 32, 4)}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    return "HEIC" if brands & {b"heic", b"heix", b"hevc", b"heim", b"mif1"} else ""
