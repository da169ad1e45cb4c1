"""Photo files from cameras, phones and other programs: raw photos, huge ones, ones without an end, and turned ones."""

from __future__ import annotations

import io
import os
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.hostile_pictures import encoded, photo, plain_tags, segment, tiff

from celeb_basis.errors import PhotoError
from celeb_basis.photos import open_photo


def noise(width: int, height: int) -> Image.Image:
    """What compresses as badly as a real photo."""
    small = np.random.default_rng(3).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("suffix", ["nef", "dng", "arw", "tif"])
def test_the_largest_page_is_read_and_not_its_thumbnail(tmp_path: Path, suffix: str) -> None:
    large = noise(752, 904)
    path = tmp_path / f"DSC_0001.{suffix}"
    large.resize((160, 192)).save(path, "TIFF", save_all=True, append_images=[large])
    np.testing.assert_array_equal(open_photo(path), np.asarray(large))


def raw_with_preview(preview: bytes, *, sensor: tuple[int, int] = (4000, 3000), orientation: int = 1) -> bytes:
    """A thumbnail, and inner directories with a sensor's values and a JPEG, as in NEF and DNG files."""
    thumbnail = [
        (254, 4, 1, 1),
        *plain_tags(160, 120, strip=3000, length=19_200),
        (274, 3, 1, orientation),
        (330, 4, 2, 600),
    ]
    values = [(254, 4, 1, 0), *plain_tags(*sensor, bits=14, strip=3000)]
    values = [one if one[0] != 262 else (262, 3, 1, 32803) for one in values]
    jpeg = [(254, 4, 1, 1), (259, 3, 1, 6), (513, 4, 1, 30_000), (514, 4, 1, len(preview))]
    data = bytearray(tiff(thumbnail).ljust(600, b"\0"))
    data += struct.pack("<II", 700, 1200)
    for place, tags in ((700, values), (1200, jpeg)):
        data = data.ljust(place, b"\0") + tiff(tags)[8:]
    return bytes(data.ljust(30_000, b"\0")) + preview


@pytest.mark.parametrize(("orientation", "shape"), [(1, (600, 800, 3)), (6, (800, 600, 3)), (8, (800, 600, 3))])
def test_a_raw_photo_gives_its_largest_preview_upright(orientation: int, shape: tuple[int, ...]) -> None:
    assert open_photo(raw_with_preview(encoded(noise(800, 600), "JPEG"), orientation=orientation)).shape == shape


@pytest.mark.parametrize("size", [(160, 120), (320, 240)])
def test_nobody_is_learned_from_a_raw_photos_thumbnail(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "DSC_0001.NEF"
    path.write_bytes(raw_with_preview(encoded(noise(*size), "JPEG")))
    with pytest.raises(PhotoError, match=r"DSC_0001\.NEF is a raw photo \(NEF\).*export a JPEG"):
        open_photo(path)


RAW_HEADS = {
    "raf": b"FUJIFILMCCD-RAW 0201FF383501",
    "cr3": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
    "orf": b"IIRO\x08\0\0\0",
    "rw2": b"IIU\0\x18\0\0\0",
}


@pytest.mark.parametrize("suffix", RAW_HEADS)
def test_raw_files_of_other_builds_give_their_preview_or_their_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    small, large = encoded(noise(160, 120), "JPEG"), encoded(noise(1024, 768), "JPEG")
    path.write_bytes(RAW_HEADS[suffix] + bytes(200) + small + bytes(50) + large + bytes(100_000))
    assert open_photo(path).shape == (768, 1024, 3)
    path.write_bytes(RAW_HEADS[suffix] + bytes(200) + small + bytes(100_000))
    with pytest.raises(PhotoError, match=rf"a raw photo \({suffix.upper()}\).*export a JPEG"):
        open_photo(path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff\x0a" + bytes(60), "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(60), "JPEG XL"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), "HEIC"),
        (b"8BPS\0\1" + bytes(60), "Photoshop"),
        (b"\0\0\1\0\1\0" + bytes(60), "icon"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"%PDF-1.7\n", "PDF"),
        (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\0\0\0\x20ftypisom" + bytes(60), "film"),
        (b"<!DOCTYPE html><html><body>Not found</body></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ],
)
def test_other_files_are_refused_by_their_name(data: bytes, words: str) -> None:
    with pytest.raises(PhotoError, match=words):
        open_photo(data)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_phones_jpeg_of_200_megapixels_is_read(mode: str) -> None:
    data = encoded(Image.new(mode, (16_320, 12_240), 128 if mode == "L" else (10, 200, 90)), "JPEG", quality=50)
    picture = open_photo(data)
    assert max(picture.shape) >= 4000
    assert abs(int(picture[9, 9, 1]) - (128 if mode == "L" else 200)) < 4


@pytest.mark.parametrize("missing", [1, 2, 3, 40, 400])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_without_its_last_bytes_is_read(mode: str, missing: int) -> None:
    data = encoded(noise(640, 800).convert(mode), "JPEG", quality=92)
    whole, cut = open_photo(data), open_photo(data[:-missing])
    assert whole.shape[1] == cut.shape[1]
    assert 0.9 * len(whole) <= len(cut) <= len(whole)
    rows = len(cut) - 64
    np.testing.assert_array_equal(cut[:rows], whole[:rows])


def test_a_black_photo_without_its_last_bytes_is_read() -> None:
    for color in ("black", "white"):
        data = encoded(Image.new("RGB", (400, 600), color), "JPEG")
        assert len(open_photo(data[:-2])) >= 540


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("kind", ["JPEG", "progressive", "PNG", "WEBP"])
def test_half_a_picture_is_refused_in_words(kind: str, share: float) -> None:
    options = {"progressive": True} if kind == "progressive" else {}
    data = encoded(noise(640, 800), "JPEG" if kind == "progressive" else kind, **options)
    with pytest.raises(PhotoError, match=r"incomplete|damaged"):
        open_photo(data[: int(len(data) * share)])


def xmp(orientation: int, form: str = "attribute") -> bytes:
    stated = f'tiff:Orientation="{orientation}"/>'
    if form == "element":
        stated = f"><tiff:Orientation>{orientation}</tiff:Orientation>"
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
        f"{stated}</rdf:RDF></x:xmpmeta>"
    ).encode()


@pytest.mark.parametrize("form", ["attribute", "element"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_orientation_in_xmp_is_applied_where_exif_has_none(kind: str, form: str) -> None:
    base, text = photo(160, 120), xmp(6, form)
    if kind == "JPEG":
        data = encoded(base, "JPEG", quality=95)
        data = data[:2] + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + text) + data[2:]
    elif kind == "PNG":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", text.decode())
        data = encoded(base, "PNG", pnginfo=info)
    elif kind == "WEBP":
        data = encoded(base, "WEBP", xmp=text, quality=95)
    else:
        data = encoded(base, "TIFF", tiffinfo={700: text})
    expected = np.rot90(np.asarray(base), -1).astype(int)
    assert np.abs(open_photo(data).astype(int) - expected).mean() < 6


def test_exifs_orientation_counts_more_than_xmps() -> None:
    exif = Image.Exif()
    exif[0x0112] = 1
    data = encoded(photo(160, 120), "JPEG", exif=exif.tobytes())
    data = data[:2] + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(6)) + data[2:]
    assert open_photo(data).shape == (120, 160, 3)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_a_fifo_and_a_device_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "eve.jpg")
    for path in (tmp_path / "eve.jpg", Path("/dev/zero")):
        with pytest.raises(PhotoError, match="pipe or a device"):
            open_photo(path)


def test_a_film_behind_a_motion_photo_does_no_harm() -> None:
    film = np.random.default_rng(0).integers(0, 256, 12_000_000, dtype=np.uint8).tobytes()
    assert film.count(b"\xff\xda") > 100
    progressive = encoded(noise(640, 480), "JPEG", progressive=True)
    np.testing.assert_array_equal(open_photo(progressive + film), open_photo(progressive))


def test_one_picture_is_decoded_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most = [], []
    load = Image.Image.load

    def counted(self: Image.Image) -> object:
        inside.append(1)
        most.append(len(inside))
        try:
            return load(self)
        finally:
            inside.pop()

    monkeypatch.setattr(Image.Image, "load", counted)
    data = encoded(noise(1280, 960), "PNG")
    threads = [threading.Thread(target=open_photo, args=(data,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    nested = max(most)
    most.clear()
    open_photo(data)
    assert nested == max(most)


def test_a_cut_multi_picture_file_is_read() -> None:
    file = io.BytesIO()
    noise(640, 480).save(file, "MPO", save_all=True, append_images=[noise(320, 240)])
    assert open_photo(file.getvalue()).shape == (480, 640, 3)
