"""Pictures made to hurt: a generator of named files, and the bounded process that opens them."""

from __future__ import annotations

import io
import json
import random
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, features
from support.bounded import SECONDS_OF_CPU, memory_now, peak_since, seconds_of_cpu

Tag = tuple[int, int, int, int]


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photo(width: int = 160, height: int = 120, mode: str = "RGB") -> Image.Image:
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=-1).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, color: int = 2, depth: int = 8, before: bytes = b"", data: bytes | None = None
) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    if data is None:
        channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
        packer, row = zlib.compressobj(9), bytes(1 + (width * channels * depth + 7) // 8)
        data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + head + before + chunk(b"IDAT", data) + chunk(b"IEND")


def tiff(tags: list[Tag], body: bytes = b"", following: int = 0) -> bytes:
    """One directory at 8; values are numbers or offsets as given."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", following) + body


def plain_tags(
    width: int, height: int, *, bits: int = 8, samples: int = 1, strip: int = 400, length: int = 64
) -> list[Tag]:
    return [
        *((256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, bits), (259, 3, 1, 1), (262, 3, 1, 1)),
        *((273, 4, 1, strip), (277, 3, 1, samples), (278, 4, 1, height), (279, 4, 1, length)),
    ]


def segment(marker: int, data: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data


def scans_of(progressive: bytes, count: int, *, hidden: bool = False) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    start = progressive.rindex(b"\xff\xda")
    end = progressive.rindex(b"\xff\xd9")
    between = segment(0xFE, b"\xff\xd9\xff\xd9") if hidden else b""
    return progressive[:end] + (between + progressive[start:end]) * count + b"\xff\xd9"


def looping_exif(entries: int, size: int) -> bytes:
    """EXIF data whose entries all refer to the same bytes."""
    table = b"".join(struct.pack("<HHII", n % 25_000 + 40_000, 7, size, 8) for n in range(entries))
    data = b"II*\0" + struct.pack("<IH", 8, entries) + table + bytes(4)
    return (b"Exif\0\0" + data).ljust(size + 8, b"\0")[:65_500]


def ico(inner: bytes) -> bytes:
    return b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(inner), 22) + inner


def corpus() -> Iterator[tuple[str, bytes]]:
    """Files by name; each is opened, or refused in words."""
    base = photo()
    jpeg, progressive = encoded(base, "JPEG", quality=90), encoded(base, "JPEG", quality=90, progressive=True)
    yield from _jpegs(jpeg, progressive)
    yield from _pngs()
    yield from _tiffs()
    yield from _others(jpeg)
    yield from _broken(base, jpeg, progressive)


def _jpegs(jpeg: bytes, progressive: bytes) -> Iterator[tuple[str, bytes]]:
    large = encoded(Image.new("RGB", (3000, 2000), "gray"), "JPEG", quality=20, progressive=True)
    for count in (5, 50, 99, 101, 500, 2000, 20_000):
        yield f"scans-{count}.jpg", scans_of(progressive, count)
        yield f"scans-hidden-{count}.jpg", scans_of(progressive, count, hidden=True)
        yield f"scans-large-{count}.jpg", scans_of(large, min(count, 2000))
    for marker in (0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE, 0xDB, 0xC4, 0xDD):
        yield f"empty-segments-{marker:x}.jpg", jpeg[:2] + segment(marker, b"") * 60_000 + jpeg[2:]
        yield f"large-segments-{marker:x}.jpg", jpeg[:2] + segment(marker, bytes(65_000)) * 600 + jpeg[2:]
    yield "fillers.jpg", jpeg[:2] + b"\xff" * 3_000_000 + jpeg[2:]
    yield "nulls.jpg", jpeg[:2] + b"\xff\0" * 2_000_000 + jpeg[2:]
    yield "restarts.jpg", jpeg[:2] + b"\xff\xd0" * 2_000_000 + jpeg[2:]
    for entries, size in ((10, 60_000), (2000, 60_000), (5000, 60_000), (65_535, 1000), (3000, 2**31 - 1)):
        yield f"exif-{entries}-{size}.jpg", jpeg[:2] + segment(0xE1, looping_exif(entries, size)) + jpeg[2:]
    exif = segment(0xE1, b"Exif\0\0" + bytes(65_000))
    yield "exif-many.jpg", jpeg[:2] + exif * 350 + jpeg[2:]
    yield (
        "icc-many.jpg",
        jpeg[:2]
        + b"".join(segment(0xE2, b"ICC_PROFILE\0" + bytes((n, 255)) + bytes(65_000)) for n in range(1, 255))
        + jpeg[2:],
    )
    yield (
        "photoshop.jpg",
        jpeg[:2] + segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\0" * 5000) * 100 + jpeg[2:],
    )
    mpf = b"MPF\0II*\0" + struct.pack("<IHHHII", 8, 1, 0xB001, 4, 1, 2**31) + bytes(4)
    yield "mpf.jpg", jpeg[:2] + segment(0xE2, mpf) + jpeg[2:]
    frame = next(at for at in range(len(jpeg)) if jpeg[at : at + 2] in (b"\xff\xc0", b"\xff\xc2"))
    for width, height in ((65_535, 65_535), (20_000, 12_000), (60_000, 40), (0, 0), (1, 65_500), (16_000, 12_000)):
        yield f"says-{width}x{height}.jpg", jpeg[: frame + 5] + struct.pack(">HH", height, width) + jpeg[frame + 9 :]
    wide = next(at for at in range(len(progressive)) if progressive[at : at + 2] == b"\xff\xc2")
    for width, height in ((16_000, 12_000), (20_000, 12_000), (9_000, 9_000)):
        yield (
            f"progressive-{width}.jpg",
            progressive[: wide + 5] + struct.pack(">HH", height, width) + progressive[wide + 9 :],
        )


def _pngs() -> Iterator[tuple[str, bytes]]:
    for name, size, color, depth in (
        *(("gray", (11_000, 10_000), 0, 8), ("gray16", (9_000, 9_000), 0, 16), ("rgb", (9_000, 9_000), 2, 8)),
        *(("rgb16", (9_000, 8_000), 2, 16), ("rgba", (16_000, 12_000), 6, 8), ("palette", (11_000, 10_000), 3, 8)),
        *(("bits", (19_000, 13_000), 0, 1), ("gray-alpha", (6_000, 6_000), 4, 8), ("rgb-fits", (7_000, 7_000), 2, 8)),
        *(("gray16-fits", (8_000, 8_000), 0, 16), ("thin", (20_000, 40), 2, 8), ("palette-fits", (6_000, 6_000), 3, 8)),
    ):
        before = chunk(b"PLTE", bytes(768)) if color == 3 else b""
        yield f"{name}.png", png(*size, color, depth, before)
    small: dict[str, Any] = {"width": 64, "height": 64}
    bomb = zlib.compress(bytes(200_000_000), 9)
    yield "iccp.png", png(**small, before=chunk(b"iCCP", b"x\0\0" + bomb))
    yield "ztxt.png", png(**small, before=chunk(b"zTXt", b"x\0\0" + bomb))
    yield "itxt.png", png(**small, before=chunk(b"iTXt", b"x\0\1\0\0\0" + bomb))
    megabyte = zlib.compress(bytes(1_000_000), 9)
    yield "ztxt-many.png", png(**small, before=b"".join(chunk(b"zTXt", b"x%d\0\0" % n + megabyte) for n in range(1500)))
    yield "text-many.png", png(**small, before=chunk(b"tEXt", b"x\0y") * 200_000)
    yield "unknown-many.png", png(**small, before=chunk(b"abCd") * 500_000)
    yield "exif.png", png(**small, before=chunk(b"eXIf", looping_exif(5000, 60_000)[6:]))
    yield "exif-large.png", png(**small, before=chunk(b"eXIf", bytes(30_000_000)))
    text = looping_exif(3000, 40_000).hex()
    yield (
        "exif-text.png",
        png(
            **small, before=chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(f"\nexif\n 1\n{text}".encode()))
        ),
    )
    yield "apng.png", png(**small, before=chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)))
    data = zlib.compress(bytes(64 * 193))
    tiny = b"".join(chunk(b"IDAT", data[at : at + 1]) for at in range(len(data))) + chunk(b"IDAT") * 300_000
    yield "idat-many.png", png(**small, before=tiny)
    yield "after-many.png", png(**small)[:-12] + chunk(b"tEXt", b"x\0y") * 300_000 + chunk(b"IEND")
    yield "bomb.png", png(**small, data=zlib.compress(bytes(500_000_000), 9))
    yield "length.png", png(**small).replace(b"\0\0\0\rIHDR", b"\x7f\xff\xff\xffIHDR")


def _tiffs() -> Iterator[tuple[str, bytes]]:
    for name, mode, size in (
        ("float", "F", (12_000, 9_000)),
        ("float-fits", "F", (6_000, 5_000)),
        ("int", "I", (12_000, 9_000)),
    ):
        yield f"{name}.tif", encoded(Image.new(mode, size), "TIFF", compression="tiff_adobe_deflate")
    for mode, size in (
        ("RGB", (9_000, 9_000)),
        ("L", (11_000, 10_000)),
        ("CMYK", (9_000, 9_000)),
        ("RGB", (7_000, 7_000)),
    ):
        yield f"{mode}-{size[0]}.tif", encoded(Image.new(mode, size), "TIFF", compression="tiff_lzw")
    yield "loop.tif", tiff(plain_tags(64, 64), bytes(8192), following=8)
    chain = b"".join(struct.pack("<HHHIII", 1, 256, 4, 1, 64, 8 + 18 * (n + 1)) for n in range(100_000))
    yield "chain.tif", b"II*\0" + struct.pack("<I", 8) + chain
    pages = io.BytesIO()
    photo(64, 64).save(pages, "TIFF", save_all=True, append_images=[photo(64, 64)] * 200)
    yield "pages.tif", pages.getvalue()
    body = bytes(20_000_000)
    for count in (1000, 4000, 20_000):
        tags = plain_tags(64, 64) + [(40_000 + n, 7, 15_000_000, 8) for n in range(count)]
        yield f"tags-{count}.tif", tiff(tags, body)
    inner = [(n, 7, 15_000_000, 8) for n in range(1, 1000)]
    for pointer in (34665, 34853, 330):
        place = 8 + 2 + 12 * 10 + 4
        directory = struct.pack("<H", len(inner)) + b"".join(struct.pack("<HHII", *tag) for tag in inner) + bytes(4)
        yield f"inner-{pointer}.tif", tiff([*plain_tags(64, 64), (pointer, 4, 1, place)], directory + body)
    for count in (90_000, 2_000_000, 2**31):
        tags = [tag for tag in plain_tags(64, 64) if tag[0] not in (273, 279)]
        yield f"strips-{count}.tif", tiff([*tags, (273, 4, count, 400), (279, 4, count, 400)], body)
    for width, height in ((16, 16), (60_000, 60_000), (2**31, 2**31), (0, 0), (65_536, 1)):
        tags = [tag for tag in plain_tags(4096, 4096) if tag[0] not in (273, 278, 279)]
        tiles = [(322, 4, 1, width), (323, 4, 1, height), (324, 4, 1, 400), (325, 4, 1, 64)]
        yield f"tiles-{width}.tif", tiff(tags + tiles, bytes(100_000))
    for samples in (0, 5, 7, 100, 65_535):
        yield f"samples-{samples}.tif", tiff(plain_tags(64, 64, samples=samples), bytes(8192))
    for bits in (0, 3, 64, 65_535):
        yield f"bits-{bits}.tif", tiff(plain_tags(64, 64, bits=bits), bytes(8192))
    for size in ((2**31, 2**31), (2**32 - 1, 40), (0, 0), (19_000, 19_000), (40, 2**20)):
        yield f"size-{size[0]}.tif", tiff(plain_tags(*size), bytes(8192))
    yield "big.tif", b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**40) + bytes(1000)


def _others(jpeg: bytes) -> Iterator[tuple[str, bytes]]:
    for area in ((16_383, 16_383), (8_000, 8_000)):
        for flags in (0, 2):
            body = (
                b"VP8X"
                + struct.pack("<II", 10, flags)
                + (area[0] - 1).to_bytes(3, "little")
                + (area[1] - 1).to_bytes(3, "little")
            )
            data = encoded(photo(64, 64), "WEBP")[12:]
            yield (
                f"webp-{area[0]}-{flags}.webp",
                b"RIFF" + struct.pack("<I", 4 + len(body) + len(data)) + b"WEBP" + body + data,
            )
    frames = io.BytesIO()
    photo(64, 64).save(
        frames, "WEBP", save_all=True, append_images=[photo(64, 64).rotate(n) for n in range(1, 500)], quality=10
    )
    yield "frames.webp", frames.getvalue()
    frames = io.BytesIO()
    Image.new("P", (64, 64)).save(
        frames, "GIF", save_all=True, append_images=[Image.new("P", (64, 64), n % 250 + 1) for n in range(2000)]
    )
    yield "frames.gif", frames.getvalue()
    gif = encoded(photo(64, 64), "GIF")
    table = 13 + (3 << (gif[10] & 7) + 1)
    block = b"!\xfe" + (b"\xff" + b"x" * 255) * 100_000 + b"\0"
    yield "comment.gif", gif[:table] + block + gif[table:]
    yield "comments.gif", gif[:table] + b"!\xfe\1x\0" * 300_000 + gif[table:]
    for width, height in ((65_535, 65_535), (19_000, 12_000), (20_000, 40)):
        yield f"canvas-{width}.gif", gif[:6] + struct.pack("<HH", width, height) + gif[10:]
    for width, height in ((9_000, 9_000), (2**31 - 1, 1), (16_000, 15_000), (3_000, 3_000)):
        yield f"qoi-{width}.qoi", b"qoif" + struct.pack(">IIBB", width, height, 3, 0) + b"\xfd" * 3_000_000
        for kind in (1, 2):
            bmp = struct.pack(
                "<2sIHHIIiiHHIIiiII",
                b"BM",
                3_000_000,
                0,
                0,
                54,
                40,
                width,
                height,
                1,
                8 if kind == 1 else 4,
                kind,
                0,
                0,
                0,
                0,
                0,
            )
            yield f"rle{kind}-{width}.bmp", bmp + bytes(1024) + b"\xff\1" * 1_500_000
            yield f"delta{kind}-{width}.bmp", bmp + bytes(1024) + b"\0\2\xff\xff" * 500_000
        for kind in (1, 2, 3):
            yield (
                f"plain{kind}-{width}.ppm",
                b"P%d %d %d%s\n" % (kind, width, height, b" 255" if kind > 1 else b"") + b"1 " * 2_000_000,
            )
        for largest in (1, 100, 1000, 65_534):
            yield f"largest{largest}-{width}.ppm", b"P6 %d %d %d\n" % (width, height, largest) + bytes(3_000_000)
        yield (
            f"plain-bmp-{width}.bmp",
            struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0),
        )
    yield "comments.ppm", b"P6\n#" + b"x" * 30_000_000 + b"\n64 64 255\n" + bytes(64 * 64 * 3)
    yield "spaces.ppm", b"P6" + b" " * 30_000_000 + b"64 64 255\n" + bytes(64 * 64 * 3)
    yield "png-inside.ico", ico(png(13_000, 13_000, 6))
    yield "jpeg-inside.ico", ico(jpeg)
    yield (
        "ghostscript.eps",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n(%pipe%touch /tmp/x) (w) file\n",
    )
    yield from (
        *(
            ("photoshop.psd", b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 4, 30_000, 30_000, 8, 3)),
            ("icon.icns", b"icns" + bytes(60)),
        ),
        *(
            ("texture.dds", b"DDS \x7c\0\0\0" + bytes(120)),
            ("paint.pcx", b"\n\5\1\x08" + struct.pack("<4H", 0, 0, 65_534, 65_534) + bytes(120)),
        ),
        *(
            ("film.fli", b"\0\1\0\0\x11\xaf" + bytes(200)),
            ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        ),
        *(
            ("x.jxl", b"\xff\x0a" + bytes(60)),
            ("box.jxl", b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(60)),
            ("page.html", b"<!DOCTYPE html><html>"),
        ),
        *(
            ("a.zip", b"PK\3\4" + bytes(60)),
            ("film.mp4", b"\0\0\0\x20ftypisom" + bytes(60)),
            ("raw.cr3", b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(90)),
        ),
        *(
            ("raw.raf", b"FUJIFILMCCD-RAW 0201" + bytes(200)),
            ("raw.orf", b"IIRO\x08\0\0\0" + bytes(200)),
            ("raw.rw2", b"IIU\0\x08\0\0\0" + bytes(200)),
        ),
        *(
            ("x.fits", b"SIMPLE  =                    T" + b" " * 2850),
            ("x.xpm", b"/* XPM */" + bytes(90)),
            ("x.xbm", b"#define a_width 40000\n"),
        ),
    )
    if features.check("jpg_2000"):
        whole = encoded(photo(64, 64), "JPEG2000", no_jp2=True)
        at = whole.index(b"\xff\x51") + 6
        for width, height in ((60_000, 60_000), (12_000, 9_000), (2**32 - 1, 64)):
            yield f"j2k-{width}.jp2", whole[:at] + struct.pack(">II", width, height) + whole[at + 8 :]
        for tile in (1, 7, 2**31):
            yield (
                f"tiles-{tile}.jp2",
                whole[:at] + struct.pack(">IIIIII", 4000, 4000, 0, 0, tile, tile) + whole[at + 24 :],
            )


def _broken(base: Image.Image, jpeg: bytes, progressive: bytes) -> Iterator[tuple[str, bytes]]:
    """Ordinary files with a part missing or some bytes changed."""
    files = {"jpg": jpeg, "prog.jpg": progressive}
    files |= {kind.lower(): encoded(base, kind) for kind in ("PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")}
    if features.check("jpg_2000"):
        files["jp2"] = encoded(base, "JPEG2000")
    chance = random.Random(5)
    for suffix, data in files.items():
        for share in (0.02, 0.1, 0.5, 0.95):
            yield f"cut-{share}.{suffix}", data[: int(len(data) * share)]
        for number in range(12):
            changed = bytearray(data)
            for _ in range(chance.choice((1, 4, 30))):
                # Headers are where it matters.
                changed[chance.randrange(min(len(data), chance.choice((64, 400, len(data)))))] = chance.randrange(256)
            yield f"changed-{number}.{suffix}", bytes(changed)


def open_all(folder: Path) -> None:
    """Open every file of a folder in this process and print what became of each, with its memory and seconds, as JSON."""
    import signal

    from celeb_basis.errors import CelebBasisError
    from celeb_basis.photos import open_photo

    open_photo(encoded(photo(), "JPEG"))
    for path in sorted(folder.iterdir()):
        before, began = memory_now(), seconds_of_cpu()
        signal.setitimer(signal.ITIMER_PROF, 4 * SECONDS_OF_CPU)  # kills this process
        try:
            outcome = str(open_photo(path).shape)
        except CelebBasisError as error:
            outcome = f"refused: {error}"
        except BaseException as error:
            outcome = f"raised: {type(error).__name__}: {error}"
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps([path.name, outcome, peak_since(before), seconds_of_cpu() - began]), flush=True)


if __name__ == "__main__":
    open_all(Path(sys.argv[1]))
