"""Any picture file as upright RGB pixels of a workable size, or an error that says what is wrong with it."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from celeb_basis.errors import PhotoError
from celeb_basis.files import explained_os_errors

if TYPE_CHECKING:
    from celeb_basis.faces.types import Pixels

SMALLEST_SIDE = 32
"""Pixels. In less no face can be told."""

LARGEST_SIDE = 20_000
LARGEST_AREA = 120_000_000
"""Pixels of side and area above which a file is refused, by its header alone: it may be a decompression bomb."""

WORKING_SIDE = 4096
"""Longer pictures are scaled down to this many pixels: a face in them is still larger than any training picture."""

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
    """Read a picture file, or the bytes of one, as upright ``(H, W, 3)`` uint8 sRGB, at most ``working_side`` long.

    EXIF orientation and embedded colour profiles are applied, transparent parts become white, animations give their
    first frame, and 16-bit, 32-bit and floating-point grey is brought to 8 bits.

    Parameters: ``name`` stands for the picture in messages (the file's name by default); ``max_pixels`` is the largest
    area that is decoded at all.
    Raises: :class:`PhotoError` for what is no picture, damaged, too small or too large; :class:`FileError` if the file
    cannot be opened.
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
    """Turn whatever Pillow makes of a bad file into a :class:`PhotoError`."""
    try:
        with warnings.catch_warnings():
            # Of many pixels, where Pillow's limit is lower than ours, and of damaged EXIF data, which we do without.
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
        raise PhotoError(f"{shown}, too small to hold a face: give a photo of at least {SMALLEST_SIDE} on each side.")
    if max(size) > LARGEST_SIDE or width * height > max_pixels:
        raise PhotoError(
            f"{shown}, too large to be decoded safely (at most {LARGEST_SIDE:,} on a side and {max_pixels:,} in all): "
            f"scale it down to about {WORKING_SIDE:,} on the long side."
        )


def _decode(image: Image.Image, working_side: int) -> None:
    """Load the pixels. JPEG is reduced while it is decoded, to no less than ``working_side``."""
    if max(image.size) > working_side:
        image.draft(None, _fitted(image.size, working_side))
    image.load()


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What sets a decoded picture upright."""
    if image.format == "TIFF":
        return None  # Pillow turns these while decoding, and some versions leave the tag as it was
    try:
        return _TURNS.get(image.getexif().get(0x0112, 1))
    except Exception:  # damaged EXIF data is common, and no reason to refuse the picture
        return None


def _fitted(size: tuple[int, int], side: int) -> tuple[int, int]:
    """``size`` scaled so that the longer side is ``side``; never below one pixel, however thin."""
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
    """The picture as L, RGB, RGBA, CMYK or another mode that can be scaled: no palette, no key colour."""
    if image.mode in ("LA", "La", "PA", "RGBa") or "transparency" in image.info:
        return image.convert("RGBA")
    if image.mode in ("P", "1"):
        return image.convert("RGB")
    return image


def _srgb(image: Image.Image) -> Image.Image:
    """Apply an embedded colour profile (phones' Display P3, printers' CMYK); a useless one is passed over."""
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
    """Deep grey as L. The range is the file's own where its type tells it, else guessed from its largest value."""
    if image.mode not in _DEEP_MODES:
        return image
    values = np.nan_to_num(np.asarray(image, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    largest = float(values.max(initial=0.0))
    if image.mode.startswith("I;16"):
        white = 65535.0
    elif image.mode == "F":
        white = next((limit for limit in (1.0, 255.0, 65535.0) if largest <= limit), largest)
    else:  # "I" holds 16 bits as a rule, but a file of 32 may hold anything
        white = next((limit for limit in (255.0, 65535.0) if largest <= limit), largest)
        if image.format == "PNG":
            white = 65535.0
    return Image.fromarray(np.clip(values * (255.0 / white) + 0.5, 0, 255).astype(np.uint8))


def _formats(file: IO[bytes]) -> list[str]:
    """The formats we read, of those that this Pillow knows, with a plug-in for AVIF or HEIC where one is installed."""
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
    """``"AVIF"`` or ``"HEIC"`` by the file's first bytes, or nothing. Leaves the file at its start."""
    file.seek(0)
    head = file.read(32)
    file.seek(0)
    if head[4:8] != b"ftyp":
        return ""
    brands = {head[start : start + 4] for start in range(8, 32, 4)}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    return "HEIC" if brands & {b"heic", b"heix", b"hevc", b"heim", b"mif1"} else ""
