"""Small pieces of HTML. Text reaches the page through :func:`text` alone."""

from __future__ import annotations

import base64
import html
import io
import re
from typing import TYPE_CHECKING

from celeb_basis import plots
from celeb_basis.provenance import drawn_bytes, marked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from celeb_basis.faces.types import Pixels
    from celeb_basis.report.types import ReportPhoto

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""Control characters, those that turn the direction of writing, and what is no character."""
_TAG = re.compile(r"<[^>]*>")
_COLOURS = {
    plots.INK: "--ink",
    plots.QUIET: "--quiet",
    plots.GRID: "--line",
    plots.PAPER: "--card",
    **{colour: f"--series-{index}" for index, colour in enumerate(plots.SERIES)},
}


def text(value: object) -> str:
    """Any value as text of the page, for elements and quoted attributes; what HTML cannot hold becomes U+FFFD."""
    return html.escape(_CONTROLS.sub("\ufffd", str(value)), quote=True)


def name(value: object) -> str:
    """Somebody's choice of letters, kept from turning the direction of the text around it."""
    return f"<bdi>{text(value)}</bdi>"


def section(title: str, *parts: str) -> str:
    """A headed part of the page; nothing if it would be empty. ``title`` is text, ``parts`` are HTML."""
    body = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{text(title)}</h2>\n{body}\n</section>" if body else ""


def figure(body: str, caption: str = "", kind: str = "") -> str:
    """A figure; ``body`` and ``caption`` are HTML."""
    under = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f'<figure class="{text(kind)}">{body}{under}</figure>'


def data_uri(picture: Pixels, largest: int) -> tuple[str, int, int]:
    """A photo as a ``data:`` URI, shrunk to ``largest`` pixels a side, with its width and height there."""
    from PIL import Image

    image = Image.fromarray(picture)
    image.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90, subsampling=0)
    return _jpeg_uri(stream.getvalue()), image.width, image.height


def drawn_uri(picture: Image.Image, largest: int) -> tuple[str, int, int]:
    """:func:`data_uri` of a picture that was drawn, which says so of itself (:mod:`celeb_basis.provenance`)."""
    from PIL import Image

    small = picture.convert("RGB")
    small.info = dict(picture.info)
    small.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    return _jpeg_uri(drawn_bytes(small, "JPEG")), small.width, small.height


def _jpeg_uri(data: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")


def image(picture: Pixels, alt: str, largest: int = 768, drawn: Sequence[str] | None = None) -> str:
    """An ``img`` element that holds its picture.

    Parameters: ``drawn`` are the words of the people whom a picture of ours shows; ``None`` for a photo.
    """
    from PIL import Image

    if drawn is None:
        uri, width, height = data_uri(picture, largest)
    else:
        uri, width, height = drawn_uri(marked(Image.fromarray(picture), drawn), largest)
    return f'<img src="{uri}" width="{width}" height="{height}" alt="{text(alt)}">'


def marked_photo(photo: ReportPhoto) -> str:
    """A photo with the learned face framed, its landmarks dotted and other faces framed faintly."""
    height, width = photo.picture.shape[:2]
    uri, _, _ = data_uri(photo.picture, 1024)
    scale = min(640 / width, 540 / height)
    unit = max(width, height) / 400  # a line's width that looks the same on a photo of any size
    marks = [_frame(box, "other", unit) for box in photo.others]
    if photo.box is not None:
        marks.append(_frame(photo.box, "chosen", unit))
    if photo.landmarks is not None:
        marks += [
            f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="{unit * 1.6:.1f}"/>'
            for x, y in photo.landmarks.tolist()
        ]
    described = f"The photo {photo.name}" + (", the face that was learned framed" if photo.box is not None else "")
    return (
        f'<svg class="photo" viewBox="0 0 {width} {height}" width="{width * scale:.0f}" height="{height * scale:.0f}" '
        f'role="img" aria-label="{text(described)}">'
        f'<image href="{uri}" width="{width}" height="{height}"/>{"".join(marks)}</svg>'
    )


def chart(svg: bytes, described: str, prefix: str) -> str:
    """One of :mod:`celeb_basis.plots`' SVGs as a part of the page, in the page's own colours and font.

    Parameters: ``described`` is its text alternative; ``prefix`` keeps its ids apart from other charts'.
    """
    source = svg.decode("utf-8")
    source = source[source.index("<svg") :]
    source = re.sub(r"<metadata>.*?</metadata>", "", source, count=1, flags=re.DOTALL)
    # Its style sheet would hold for the whole page: the chart's class carries these two rules instead.
    source = re.sub(r"<style.*?</style>", "", source, count=1, flags=re.DOTALL)
    source = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" @>', source, count=1)

    def local(match: re.Match[str]) -> str:
        tag = re.sub(r'( id="|xlink:href="#|url\(#)', rf"\g<1>{prefix}-", match.group())
        tag = tag.replace("xlink:href", "href").replace("'DejaVu Sans'", "inherit")
        for colour, variable in _COLOURS.items():
            tag = tag.replace(colour, f"var({variable})")
        return tag

    source = _TAG.sub(local, source).strip()
    return source.replace(" @>", f' class="chart" role="img" aria-label="{text(described)}">', 1)


def duration(seconds: float) -> str:
    """``"0.03 s"``, ``"0.4 s"``, ``"12 s"``, ``"3 min 20 s"``, ``"2 h 5 min"``."""
    if seconds < 0.095:
        return f"{seconds:.2f} s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: int) -> str:
    """``"812 bytes"``, ``"7.2 kB"``, ``"1.3 MB"``: decimal units."""
    if count < 1000:
        return f"{count} bytes"
    value = float(count)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 999.5 or unit == "GB":
            break
    return f"{value:.1f} {unit}" if value < 100 else f"{value:.0f} {unit}"


def bar(share: float) -> str:
    """A horizontal bar of ``share`` (0 to 1) of its place; for the eye only, so hidden from screen readers."""
    return f'<span class="bar" aria-hidden="true"><i style="width:{max(0.0, min(1.0, share)) * 100:.1f}%"></i></span>'


def _frame(box: tuple[float, float, float, float], kind: str, unit: float) -> str:
    left, top, right, bottom = box
    return (
        f'<rect class="{kind}" x="{left:.1f}" y="{top:.1f}" width="{max(0.0, right - left):.1f}" '
        f'height="{max(0.0, bottom - top):.1f}" rx="{unit * 3:.1f}" stroke-width="{unit * 1.6:.1f}"/>'
    )
