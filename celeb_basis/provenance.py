"""Provenance marks in generated pictures of learned people: made by a generative model, and whom they show.

Every file carries two of them: an XMP packet with the *Digital Source Type* of the IPTC photo metadata standard, which
platforms and agencies read, and a sentence for people. In PNG files the sentence has the keyword :data:`KEY`, in JPEG
files it is the comment. :func:`save_generated_image` is the one place that writes such files.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from xml.sax.saxutils import escape

from celeb_basis import __version__
from celeb_basis.errors import CelebBasisError
from celeb_basis.files import open_regular, write_bytes

if TYPE_CHECKING:
    from PIL import Image

KEY = "AI-generated person"
"""Keyword of the sentence in a PNG file."""

GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's term for a picture made by a trained model."""
COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC's term for such pictures combined with others, such as a contact sheet with the photo."""

PEOPLE = "Celeb Basis"
"""The generation parameter with a picture's people, each with the hash of the identity's vectors."""

Kind = Literal["PNG", "JPEG"]

_LONGEST = 20_000
_PERSON = re.compile(r'(?:^|, )([^:"<>\n]{1,64}): ([0-9a-f]{12})(?=, |$)')
_WORDS, _COMPOSITE = "celeb_basis_words", "celeb_basis_composite"
_PNG_XMP = "XML:com.adobe.xmp"
_JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\x00"


def marked(image: Image.Image, words: Sequence[str], *, composite: bool = False) -> Image.Image:
    """Note in ``image`` whom it shows, for as long as it is in memory; :func:`generated_image_bytes` writes it to the file.

    Args:
        image: The picture.
        words: The people's placeholder tokens, with the brackets.
        composite: Whether it contains real photos as well.
    """
    image.info[_WORDS], image.info[_COMPOSITE] = tuple(words), composite
    return image


def words_in(image: Image.Image) -> tuple[str, ...]:
    """The placeholder tokens that :func:`marked` noted; none for any other picture."""
    return tuple(image.info.get(_WORDS, ()))


def sentence(words: Sequence[str], *, composite: bool = False) -> str:
    """The sentence for people."""
    who = " and ".join(words) or "a person"
    begins = "This sheet shows AI-generated pictures" if composite else "This is an AI-generated picture"
    return f"{begins} of {who}, made with Celeb Basis {__version__}. It is not a photo, and nothing in it happened."


def workflow_sentence(words: Sequence[str]) -> str:
    """The sentence in every file of a workflow that saves other images, too, such as the photo that it began with."""
    who = " and ".join(words) or "a person"
    return (
        f"This file is from a workflow that makes AI-generated pictures of {who}, with Celeb Basis {__version__}. Where it "
        "shows them, it is not a photo, and nothing in it happened."
    )


def png_texts(words: Sequence[str], *, composite: bool = False) -> dict[str, str]:
    """The texts of a PNG file by keyword, for files that are written elsewhere."""
    return {KEY: sentence(words, composite=composite), _PNG_XMP: _xmp(words, composite)}


def people_text(people: Iterable[tuple[str, str]]) -> str:
    """Names and hashes as the value of :data:`PEOPLE`; empty for nobody. Names hold neither colons nor quotes."""
    return ", ".join(f"{name}: {content_hash}" for name, content_hash in people)


def parse_people(value: object) -> tuple[tuple[str, str], ...]:
    """Parse the value of :data:`PEOPLE`, ``person1: 3da88c0dcb81, person2: ...``, into names and hashes.

    The command line of version 0.1.0 wrote a JSON object, which is read, too. Anything else is ignored: pictures come from
    anywhere.
    """
    if not isinstance(value, str) or len(value) > _LONGEST:
        return ()
    if value.startswith("{"):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return ()
        value = people_text((str(name), str(of_name)) for name, of_name in found.items())
    return tuple((match.group(1), match.group(2)) for match in _PERSON.finditer(value))


def reduced(image: Image.Image, largest: int) -> Image.Image:
    """A copy of a generated picture with its marks, in RGB, scaled down to at most ``largest`` pixels per side."""
    from PIL import Image

    small = image.convert("RGB")
    small.info = dict(image.info)
    small.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    return small


def generated_image_bytes(image: Image.Image, kind: Kind = "PNG", *, texts: Mapping[str, str] | None = None) -> bytes:
    """The file content of a generated picture with its provenance marks.

    Args:
        image: The picture, from :func:`marked`.
        kind: The file format.
        texts: Additional texts of a PNG file, by keyword.
    """
    words, composite = words_in(image), bool(image.info.get(_COMPOSITE))
    buffer = io.BytesIO()
    if kind == "JPEG":
        comment = sentence(words, composite=composite).encode("utf-8")
        image.save(buffer, "JPEG", quality=90, subsampling=0, comment=comment)
        return _with_jpeg_xmp(buffer.getvalue(), _xmp(words, composite))
    # Pillow is imported here: the command line's parser needs this module's names alone.
    from PIL.PngImagePlugin import PngInfo

    remarks = PngInfo()
    for keyword, text in {**(texts or {}), **png_texts(words, composite=composite)}.items():
        remarks.add_itxt(keyword, text)
    image.save(buffer, "PNG", pnginfo=remarks)
    return buffer.getvalue()


def save_generated_image(path: Path, image: Image.Image, *, texts: Mapping[str, str] | None = None) -> None:
    """Write a generated picture atomically: as JPEG if the name of ``path`` ends so, else as PNG.

    Args:
        path: The file to write.
        image: The picture, from :func:`marked`.
        texts: Additional texts of a PNG file, by keyword.

    Raises:
        FileError: For a full disk, a read-only folder and the like.
    """
    kind: Kind = "JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG"
    write_bytes(path, generated_image_bytes(image, kind, texts=texts))


def _xmp(words: Sequence[str], composite: bool) -> str:
    described = escape(sentence(words, composite=composite))
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" '
        'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
        f"<Iptc4xmpExt:DigitalSourceType>{COMPOSITE if composite else GENERATED}</Iptc4xmpExt:DigitalSourceType>"
        f"<xmp:CreatorTool>Celeb Basis {__version__}</xmp:CreatorTool>"
        f'<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{described}</rdf:li></rdf:Alt></dc:description>'
        '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )


def _with_jpeg_xmp(data: bytes, packet: str) -> bytes:
    """A JPEG file's content with an XMP segment behind its JFIF header; older Pillows cannot write one."""
    body = _JPEG_XMP + packet.encode("utf-8")
    place = 4 + int.from_bytes(data[4:6], "big") if data[2:4] == b"\xff\xe0" else 2
    return data[:place] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + data[place:]


# The text chunk that says how an image was generated, in the WebUI's infotext form, which many tools show

PARAMETERS = "parameters"
"""Keyword of the text in a PNG file."""

_NEGATIVE = "Negative prompt: "
_EXIF, _USER_COMMENT = 0x8769, 0x9286


@dataclass(frozen=True)
class GenerationParameters:
    """How an image was generated, as far as its file says."""

    prompt: str
    seed: int
    words: tuple[str, ...]
    """Placeholder tokens of the learned people, with their brackets."""


_SAMPLERS = {"ddim": "DDIM", "dpm++": "DPM++ 2M", "rbf": "RBF-Solver"}
"""As the WebUI writes those that it has."""


def parameters_text(
    *,
    prompt: str,
    negative: str,
    steps: int,
    guidance: float,
    seed: int,
    size: tuple[int, int],
    model: str,
    model_sha256: str,
    identities: Mapping[str, str],
    sampler: str = "ddim",
    more: Mapping[str, str] | None = None,
) -> str:
    """The text for one image.

    ``identities`` maps names to content hashes, ``sampler`` is named as in a request, ``more`` are other parameters.
    """
    fields: dict[str, Any] = {
        "Steps": steps,
        "Sampler": _SAMPLERS.get(sampler, sampler),
        "CFG scale": f"{guidance:g}",
        "Seed": seed,
        "Size": f"{size[0]}x{size[1]}",
        "Model hash": model_sha256[:10],
        "Model": model,
    }
    fields |= more or {}
    if identities:
        fields[PEOPLE] = people_text(identities.items())
    lines = [" ".join(prompt.splitlines())]
    if negative:
        lines.append(_NEGATIVE + " ".join(negative.splitlines()))
    lines.append(", ".join(f"{key}: {_quoted(str(value))}" for key, value in fields.items()))
    return "\n".join(lines)


_MAX_PARAMETERS = 1 << 18
"""Longest parameters that are read, in characters: they are taken apart piece by piece."""


def read_parameters(path: Path) -> GenerationParameters | None:
    """How the image in ``path`` was generated, by the command line or in the WebUI; ``None`` if the file does not say."""
    text = _parameters_in(path)
    if text is None:
        return None
    lines = text.split("\n")
    for place in range(len(lines) - 1, -1, -1):  # some extensions of the WebUI add lines of their own
        values = _fields(lines[place])
        if re.fullmatch(r"\d{1,20}", values.get("Seed", "")):
            break
    else:
        return None
    prompt = lines[:place]
    prompt = prompt[: next((i for i, line in enumerate(prompt) if line.startswith(_NEGATIVE)), len(prompt))]
    names = [name for name, _ in parse_people(values.get(PEOPLE))]
    return GenerationParameters("\n".join(prompt), int(values["Seed"]), tuple(f"<{name}>" for name in names))


def _parameters_in(path: Path) -> str | None:
    """The text that says how an image was generated: in a PNG file a text chunk, in others a comment of EXIF."""
    from PIL import Image

    try:
        with open_regular(path) as file, Image.open(file, formats=("PNG", "JPEG", "WEBP")) as image:
            text = getattr(image, "text", {}).get(PARAMETERS)
            if text is None and image.format != "PNG":
                comment = image.getexif().get_ifd(_EXIF).get(_USER_COMMENT)
                if isinstance(comment, bytes) and comment.startswith(b"UNICODE\0"):
                    text = comment[8:].decode("utf-16-be", "replace")
    except (CelebBasisError, OSError, ValueError, SyntaxError, KeyError, TypeError, Image.DecompressionBombError):
        return None  # opening it for its pixels raises the error that says what is wrong
    return text if isinstance(text, str) and len(text) <= _MAX_PARAMETERS else None


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if any(char in value for char in ',:"\n') else value


def _fields(line: str) -> dict[str, str]:
    """Parse ``Key: value, Key: "value, with a comma"``."""
    decoder, values, rest = json.JSONDecoder(), {}, line
    while rest:
        key, colon, rest = rest.partition(": ")
        if not colon:
            break
        if rest.startswith('"'):
            try:
                value, end = decoder.raw_decode(rest)
            except ValueError:
                break
            rest = rest[end:].removeprefix(", ")
        else:
            value, _, rest = rest.partition(", ")
        values[key.strip()] = str(value)
    return values
