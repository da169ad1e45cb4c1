"""Every kind of picture file, good and bad, through ``open_photo``. Files are made with Pillow in the tests."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile, features
from support.faces import pixels_of
from support.sample_photos import sample_photos

from celeb_basis.errors import FileError, PhotoError
from celeb_basis.photos import open_photo

HEIGHT, WIDTH = 48, 64


@pytest.fixture
def gradient() -> np.ndarray:
    """A smooth picture without two equal corners."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 3 + 20, y * 4 + 30, 200 - x - y], axis=-1).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def has_avif() -> bool:
    return "avif" in features.modules and bool(features.check("avif"))


def grey_of(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).convert("L"))[..., None].repeat(3, -1)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_files_come_back_exactly(gradient: np.ndarray, kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"photo.{kind.lower()}"
    path.write_bytes(encoded(Image.fromarray(gradient), kind))
    picture = open_photo(path)
    assert picture.dtype == np.uint8
    assert picture.flags.writeable
    np.testing.assert_array_equal(picture, gradient)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF", "JPEG2000"])
def test_photographic_files_come_back_nearly(gradient: np.ndarray, kind: str) -> None:
    if kind == "AVIF" and not has_avif():
        pytest.skip("this Pillow has no AVIF")
    picture = open_photo(
        encoded(Image.fromarray(gradient), kind, quality=95)
        if kind != "JPEG2000"
        else encoded(Image.fromarray(gradient), kind)
    )
    assert np.abs(picture.astype(int) - gradient).mean() < 3


def test_a_real_photo_is_read_as_pillow_reads_it() -> None:
    path = sample_photos()["six"]
    np.testing.assert_array_equal(open_photo(path), pixels_of(path))
    np.testing.assert_array_equal(open_photo(path.read_bytes()), pixels_of(path))


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_gray_bilevel_and_palette(gradient: np.ndarray, mode: str) -> None:
    image = Image.fromarray(gradient).convert(mode)
    np.testing.assert_array_equal(open_photo(encoded(image, "PNG")), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composited_over_white(gradient: np.ndarray, mode: str) -> None:
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    alpha[:, WIDTH // 2 :] = 255
    alpha[0] = 128
    image = Image.fromarray(gradient).convert(mode)
    image.putalpha(Image.fromarray(alpha))
    expected = gradient if mode == "RGBA" else grey_of(gradient)
    weight = alpha[..., None] / 255
    np.testing.assert_allclose(open_photo(encoded(image, "PNG")), expected * weight + 255 * (1 - weight), atol=1.01)


@pytest.mark.parametrize("mode", ["P", "RGB", "L"])
def test_a_transparent_color_becomes_white(gradient: np.ndarray, mode: str) -> None:
    flat = np.full_like(gradient, 60)
    flat[10:20, 10:20] = 204  # a level of the web palette
    image = Image.fromarray(flat).convert(mode)
    key = image.getpixel((0, 0))
    picture = open_photo(encoded(image, "PNG", transparency=key))
    assert (picture[0, 0] == 255).all()
    np.testing.assert_allclose(picture[15, 15], 204)


def test_cmyk_jpeg_with_adobes_inverted_values(gradient: np.ndarray) -> None:
    data = encoded(Image.fromarray(gradient).convert("CMYK"), "JPEG", quality=95, subsampling=0)
    assert b"Adobe" in data, "the file under test should carry Adobe's marker"
    assert np.abs(open_photo(data).astype(int) - gradient).mean() < 4


def test_cmyk_tiff(gradient: np.ndarray) -> None:
    data = encoded(Image.fromarray(gradient).convert("CMYK"), "TIFF")
    np.testing.assert_allclose(open_photo(data), gradient, atol=1)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_gray(gradient: np.ndarray, kind: str) -> None:
    values = gradient[..., 0].astype(np.uint16) * 257
    picture = open_photo(encoded(Image.fromarray(values), kind))
    np.testing.assert_array_equal(picture, gradient[..., :1].repeat(3, -1))


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0, 1e6])
def test_floating_point_tiff(gradient: np.ndarray, white: float) -> None:
    values = gradient[..., 0].astype(np.float32) / 255 * np.float32(white)
    values[0, 0] = white
    values[1, 1] = np.nan
    picture = open_photo(encoded(Image.fromarray(values), "TIFF"))
    expected = gradient[..., 0].astype(int)
    expected[0, 0], expected[1, 1] = 255, 0
    np.testing.assert_allclose(picture[..., 1], expected, atol=1)


def test_thirty_two_bit_integers(gradient: np.ndarray) -> None:
    values = gradient[..., 0].astype(np.int32) * 257
    np.testing.assert_array_equal(open_photo(encoded(Image.fromarray(values), "TIFF"))[..., 2], gradient[..., 0])


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_give_their_first_frame(gradient: np.ndarray, kind: str) -> None:
    first, second = Image.fromarray(gradient), Image.fromarray(255 - gradient)
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(first, kind, save_all=True, append_images=[second], **options)
    assert np.abs(open_photo(data).astype(int) - gradient).mean() < 8


# What a camera writes for each orientation, undone: the stored picture is the upright one transformed by the inverse.
STORED = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: np.rot90(p, -1),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_tags(gradient: np.ndarray, kind: str, orientation: int) -> None:
    if kind == "AVIF" and not has_avif():
        pytest.skip("this Pillow has no AVIF")
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](gradient)))
    quality = {"quality": 95} if kind in ("JPEG", "AVIF", "WEBP") else {}
    data = encoded(stored, kind, exif=exif.tobytes(), **quality)
    picture = open_photo(data)
    assert picture.shape == gradient.shape
    assert np.abs(picture.astype(int) - gradient).mean() < 4
    reduced = open_photo(data, working_side=WIDTH // 2)
    assert np.abs(reduced.astype(int) - gradient[::2, ::2]).mean() < 6


def test_orientation_of_deep_gray_and_of_reduced_pictures(gradient: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.rot90(gradient[..., 0].astype(np.uint16) * 257, 1)
    picture = open_photo(encoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif.tobytes()))
    np.testing.assert_array_equal(picture[..., 0], gradient[..., 0])
    reduced = open_photo(
        encoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif.tobytes()), working_side=32
    )
    assert reduced.shape == (24, 32, 3)
    large = Image.fromarray(gradient).resize((640, 480)).transpose(Image.Transpose.ROTATE_90)
    picture = open_photo(encoded(large, "JPEG", exif=exif.tobytes()), working_side=100)
    assert picture.shape == (75, 100, 3)


def test_damaged_exif_is_ignored(gradient: np.ndarray) -> None:
    data = encoded(Image.fromarray(gradient), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff broken", quality=95)
    assert np.abs(open_photo(data).astype(int) - gradient).mean() < 3


def test_an_embedded_profile_is_applied(gradient: np.ndarray) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    same = open_photo(encoded(Image.fromarray(gradient), "PNG", icc_profile=srgb))
    np.testing.assert_allclose(same, gradient, atol=1)
    # A profile whose "red" is sRGB's green: the names of the two primaries in its table of contents are exchanged.
    assert srgb.count(b"rXYZ") == srgb.count(b"gXYZ") == 1
    exchanged = srgb.replace(b"rXYZ", b"tmp!").replace(b"gXYZ", b"rXYZ").replace(b"tmp!", b"gXYZ")
    picture = open_photo(encoded(Image.fromarray(gradient), "PNG", icc_profile=exchanged))
    np.testing.assert_allclose(picture, gradient[..., [1, 0, 2]], atol=2)
    broken = open_photo(encoded(Image.fromarray(gradient), "PNG", icc_profile=b"no profile at all"))
    np.testing.assert_array_equal(broken, gradient)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"Dear diary, today I renamed a text file.", "is not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n", "is not a picture"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), "pillow-heif"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "is not a picture|is damaged"),
    ],
)
def test_files_that_are_not_pictures(data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    with pytest.raises(PhotoError, match=words) as caught:
        open_photo(path)
    assert "photo.jpg" in str(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_truncated_files(kind: str) -> None:
    if kind == "AVIF" and not has_avif():
        pytest.skip("this Pillow has no AVIF")
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(PhotoError):
        open_photo(data[: len(data) // 2])


@pytest.mark.parametrize("size", [(1, 1), (31, 500), (500, 31)])
def test_too_small(size: tuple[int, int]) -> None:
    with pytest.raises(PhotoError, match="too small to show a face"):
        open_photo(encoded(Image.new("RGB", size), "PNG"))


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header promises a size that nothing follows: decoding it fails."""
    import struct
    import zlib

    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (body, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("size", [(30_000, 30_000), (30_000, 100), (100, 30_000), (15_000, 12_000), (2**31 - 1,) * 2])
def test_too_large_is_refused_by_the_header(size: tuple[int, int]) -> None:
    with pytest.raises(PhotoError, match=r"too (large|many)"):
        open_photo(png_header(*size))


def test_large_but_fine_is_scaled_down_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    Image.new("RGB", (9_000, 6_000), (10, 200, 90)).save(path)
    # Peak memory is a process's own, so it takes a fresh one.
    code = (
        "import resource, sys, numpy\n"
        "from celeb_basis.photos import open_photo\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "picture = open_photo(sys.argv[1])\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(*picture.shape, *picture[5, 5], (after - before) // 1024)\n"
    )
    pytest.importorskip("resource")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    height, width, _, red, green, blue, megabytes = (int(word) for word in done.stdout.split())
    assert (height, width) == (2731, 4096)
    np.testing.assert_allclose((red, green, blue), (10, 200, 90), atol=3)
    assert megabytes < 200, "a full decode alone takes 216 MB"


@pytest.mark.parametrize("mode", ["P", "1", "RGBA", "LA", "CMYK", "L"])
def test_every_mode_is_scaled_down(gradient: np.ndarray, mode: str) -> None:
    image = Image.fromarray(gradient).resize((640, 480), Image.Resampling.BICUBIC).convert(mode)
    picture = open_photo(encoded(image, "TIFF" if mode == "CMYK" else "PNG"), working_side=WIDTH)
    assert picture.shape == (HEIGHT, WIDTH, 3)
    expected = gradient if mode in ("P", "RGBA", "CMYK") else grey_of(gradient)
    assert np.abs(picture.astype(int) - expected).mean() < 12


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="does not exist"):
        open_photo(tmp_path / "nobody.jpg")
    with pytest.raises(FileError, match="folder"):
        open_photo(tmp_path)


def test_pillows_settings_are_unchanged(gradient: np.ndarray) -> None:
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)
    open_photo(encoded(Image.fromarray(gradient), "PNG"))
    with pytest.raises(PhotoError):
        open_photo(b"nothing")
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))


def test_the_caller_names_pictures_given_as_bytes() -> None:
    with pytest.raises(PhotoError, match="upload 3 is not"):
        open_photo(b"nothing", name="upload 3")
