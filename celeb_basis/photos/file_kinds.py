"""What a file is that is not read as a picture, by its first bytes."""

from __future__ import annotations

from typing import IO

_KINDS = (
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture"),
    (b"8BPS", "a Photoshop file (PSD)"),
    (b"8BPB", "a Photoshop file (PSB)"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "PostScript (EPS)"),
    (b"\xc5\xd0\xd3\xc6", "PostScript (EPS)"),
    (b"\0\0\1\0", "a Windows icon (ICO)"),
    (b"\0\0\2\0", "a Windows cursor (CUR)"),
    (b"icns", "a macOS icon (ICNS)"),
    (b"DDS ", "a texture (DDS)"),
    (b"gimp xcf", "a GIMP file (XCF)"),
    (b"v/1\1", "an OpenEXR picture"),
    (b"#?RADIANCE", "a Radiance HDR picture"),
    (b"BPG\xfb", "a BPG picture"),
    (b"\x1aE\xdf\xa3", "a film (WebM or Matroska)"),
    (b"FLV", "a film (Flash)"),
    (b"PK\3\4", "a ZIP archive or a document"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\x1f\x8b", "a compressed archive"),
    (b"\xd0\xcf\x11\xe0", "an Office document or a Windows thumbnail file"),
    (b"version https://git-lfs", "a Git LFS pointer and not the picture itself"),
)


def _named_kind(file: IO[bytes]) -> str:
    """What a file is that is not read, by its first bytes; empty if that is not known."""
    file.seek(0)
    head = file.read(1024)
    if kind := next((kind for start, kind in _KINDS if head.startswith(start)), ""):
        return kind
    if head[4:8] == b"ftyp":
        return "a film (MP4 or MOV)"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "a film (AVI)"
    if head[:1] == b"\n" and head[1:3] in (b"\5\1", b"\3\1", b"\2\1"):
        return "a PCX picture"
    if head[4:6] in (b"\x11\xaf", b"\x12\xaf"):
        return "a FLI animation"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in text:
        return "an SVG drawing"
    return "a web page" if text.startswith((b"<!doctype html", b"<html")) else ""


def unknown_file(file: IO[bytes], name: str) -> str:
    """What to say of a file that no reader takes."""
    kind = iso_media_kind(file)
    if kind == "AVIF":
        return (
            f"{name} is an AVIF picture, which this Pillow cannot read: run `python -m pip install pillow-avif-plugin`."
        )
    if kind == "HEIC":
        return f"{name} is an HEIC picture: run `python -m pip install pillow-heif`, or save it as JPEG."
    if kind := _named_kind(file):
        return f"{name} is {kind}, which is not a picture that can be read: save the photo as JPEG or PNG."
    file.seek(0)
    if not file.read(1):
        return f"{name} is empty: give a picture file such as JPEG or PNG."
    return f"{name} is not a picture that can be read: give a JPEG, PNG, WebP, AVIF, TIFF, GIF or BMP file."


def iso_media_kind(file: IO[bytes]) -> str:
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
