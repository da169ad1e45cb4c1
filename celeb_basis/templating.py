"""HTML from Jinja2 templates with autoescaping, and the images, durations and file sizes that pages show."""

from __future__ import annotations

import base64
import functools
import io
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from celeb_basis.provenance import generated_image_bytes, reduced

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup
    from PIL import Image

    from celeb_basis.faces.network import Pixels

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""Control characters, characters that change the direction of the text after them, and code points that are no character."""

_ADDRESS = re.compile(r"https?://[^\s<>\"']*[^\s<>\"'.,:;!?)\]}]")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def render(package: str, template: str, **context: Any) -> Markup:
    """Render a template of one of this project's packages.

    Every value is escaped, and characters that HTML cannot hold become U+FFFD, so that a name stays text wherever it
    stands. Only ``Markup``, such as the result of another call, is inserted as it is.

    Args:
        package: Import path of the package whose folder ``templates`` holds the file, such as ``"celeb_basis.report"``.
        template: Name of the file in that folder, such as ``"page.html.jinja"``.
        **context: What the template refers to; a name that it refers to and that is missing is an error.
    """
    from markupsafe import Markup

    return Markup(_environment(package).get_template(template).render(context))


@functools.cache
def _environment(package: str) -> Environment:
    """The environment of a package's templates. Jinja2 is imported when the first page is rendered, not before."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(package, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=printable,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(duration=duration, file_size=file_size, linked=linked, setting=_setting)
    return environment


def printable(value: Any) -> Any:
    """``value`` as text without unprintable characters; ``Markup`` is returned unchanged."""
    return value if hasattr(value, "__html__") else _UNPRINTABLE.sub("\ufffd", str(value))


def linked(value: Any) -> Markup:
    """``value`` escaped, with its web addresses as links that open a new page."""
    from markupsafe import Markup, escape

    if hasattr(value, "__html__"):
        return Markup(value)
    parts, end, text = [], 0, str(printable(value))
    for found in _ADDRESS.finditer(text):
        address = found.group()
        link = Markup('<a href="{0}" target="_blank" rel="noopener noreferrer">{0}</a>').format(address)
        parts += [escape(text[end : found.start()]), link]
        end = found.end()
    return Markup().join([*parts, escape(text[end:])])


def date_text(written: str, *, hour: bool = True) -> str:
    """An ISO 8601 time as people read it: ``"28 November 2026, 14:13 UTC"``, or its day alone. Other text stays as it is."""
    try:
        when = datetime.fromisoformat(written)
    except ValueError:
        return written
    day = f"{when.day} {_MONTHS[when.month - 1]} {when.year}"
    zone = " UTC" if when.tzinfo is not None and not when.utcoffset() else ""
    return f"{day}, {when:%H:%M}{zone}" if hour else day


class DataURI(NamedTuple):
    """An image that a page carries in itself."""

    uri: str
    width: int
    height: int


def data_uri(picture: Pixels, largest: int) -> DataURI:
    """Embed a photo as JPEG, scaled down to at most ``largest`` pixels per side."""
    from PIL import Image

    image = Image.fromarray(picture)
    image.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90, subsampling=0)
    return DataURI(_jpeg_uri(stream.getvalue()), image.width, image.height)


def generated_image_uri(picture: Image.Image, largest: int) -> DataURI:
    """Embed a generated image with its provenance marks (:mod:`celeb_basis.provenance`), else like :func:`data_uri`."""
    small = reduced(picture, largest)
    return DataURI(_jpeg_uri(generated_image_bytes(small, "JPEG")), small.width, small.height)


def _jpeg_uri(data: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")


def duration(seconds: float) -> str:
    """Format a duration: ``"0.03 s"``, ``"0.4 s"``, ``"12 s"``, ``"3 min 20 s"``, ``"2 h 5 min"``."""
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


def file_size(count: int) -> str:
    """Format a number of bytes in decimal units: ``"812 bytes"``, ``"7.2 kB"``, ``"1.3 MB"``."""
    if count < 1000:
        return f"{count} bytes"
    value = float(count)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 999.5 or unit == "GB":
            break
    return f"{value:.1f} {unit}" if value < 100 else f"{value:.0f} {unit}"


def _setting(value: object) -> str:
    """A setting's value as a reader writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
