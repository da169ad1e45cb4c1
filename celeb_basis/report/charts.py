"""Small pieces of HTML. Text reaches the page through :func:`text` alone."""

from __future__ import annotations

import base64
import html
import io
import re
import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from celeb_basis.provenance import generated_image_bytes, marked

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from PIL import Image

    from celeb_basis.faces.types import Pixels
    from celeb_basis.report.types import ReportPhoto


# FOLDED: Curves as SVG or PNG bytes: the basis' explained variance, the loss, the movement and the distance of
# FOLDED: people.
# FOLDED:
# FOLDED: matplotlib's object-oriented interface only, so that nothing of a host's own pyplot state is touched. An
# FOLDED: SVG depends on
# FOLDED: its data alone: no date, no random ids.

Format = Literal["svg", "png"]

INK, QUIET, GRID, PAPER = "#1d2430", "#5b6472", "#e1e4e9", "#fdfdfc"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's colours, which colour-blind readers can tell apart. A page may map these and the four above to its own."""

_STYLE = {
    "svg.fonttype": "none",  # text stays text: to be read aloud, searched, and drawn in the page's own font
    "svg.hashsalt": "celeb-basis",
    "text.parse_math": False,  # a person may be called $x$
    "axes.formatter.use_mathtext": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 10.5,
}
_WIDTH, _HEIGHT = 5.6, 3.0
_MOST_LABELLED = len(SERIES)


def explained_variance(columns: Sequence[Sequence[float]], *, fmt: Format = "svg") -> bytes:
    """The share of the celebrities' variance that each component explains, and its running sum, for every column.

    Parameters: ``columns`` holds ``E`` sequences of ``K`` shares (0 to 1), largest first: one a token position.
    """

    def draw(figure: Any) -> None:
        single, running = figure.subplots(1, 2)
        for column, shares in enumerate(columns):
            values = np.asarray(shares, dtype=np.float64)
            numbers = np.arange(1, len(values) + 1)
            look = {"color": SERIES[column % len(SERIES)], "linestyle": ("-", "--")[column % 2], "linewidth": 1.8}
            positive = np.where(values > 0, values * 100, np.nan)
            single.plot(numbers, positive, label=f"token {column + 1}", **look)
            running.plot(numbers, np.cumsum(values) * 100, **look)
        _logarithmic(single)
        single.set_title("each component, %")
        running.set_title("all up to it, %")
        running.set_ylim(0, 104)
        for axes in (single, running):
            _chart_frame(axes)
            axes.set_xlabel("component")
        if columns:
            single.legend(frameon=False, fontsize=9.5, labelcolor=INK)

    return _render(draw, fmt)


def loss_curve(
    steps: Sequence[int], losses: Sequence[float], averages: Sequence[float], *, fmt: Format = "svg"
) -> bytes:
    """The loss of every step, faint, and its moving average. The axis is logarithmic where the range is wide."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        raw, mean = _finite(losses), _finite(averages)
        axes.plot(steps, raw, color=SERIES[0], linewidth=0.9, alpha=0.4, label="every step")
        axes.plot(steps, mean, color=SERIES[0], linewidth=2.2, label="average")
        shown = mean[np.isfinite(mean)]
        if shown.size and shown.min() > 0 and shown.max() > 8 * shown.min():
            _logarithmic(axes)
        else:
            _limit(axes, raw)
        _chart_frame(axes)
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.legend(frameon=False, fontsize=9.5, labelcolor=INK, loc="upper right")

    return _render(draw, fmt)


def movement_curve(
    people: Mapping[str, tuple[Sequence[int], Sequence[float]]], settled: float | None = None, *, fmt: Format = "svg"
) -> bytes:
    """How much each person's averaged coefficients still move, with the line below which they count as settled.

    Parameters: ``people`` maps a name to steps and relative movements; ``settled`` is the setting of that name.
    """

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        lines = []
        smallest, largest = (settled or np.inf), (settled or 0.0)
        for index, (steps, movement) in enumerate(people.values()):
            values = _finite(movement)
            values[values <= 0] = np.nan
            look = {"color": SERIES[index % len(SERIES)], "linewidth": 2.0}
            lines += axes.plot(steps, values, marker="o" if len(values) < 25 else "", markersize=3.5, **look)
            if np.isfinite(values).any():
                smallest, largest = min(smallest, np.nanmin(values)), max(largest, np.nanmax(values))
        if 0 < smallest < largest:
            axes.set_ylim(smallest * 0.7, largest * 1.4)
            _logarithmic(axes)
        if settled:
            axes.axhline(settled, color=QUIET, linewidth=1.2, linestyle=(0, (5, 4)))
            axes.annotate(
                f"settled below {settled:g}",
                (0, settled),
                xycoords=("axes fraction", "data"),
                xytext=(4, 4),
                textcoords="offset points",
                color=QUIET,
                fontsize=9.5,
            )
        _chart_frame(axes)
        axes.set_xlabel("step")
        axes.set_ylabel("relative movement")
        if 1 < len(people) <= _MOST_LABELLED:
            axes.legend(
                lines, [_label(name) for name in people], frameon=False, fontsize=9.5, labelcolor=INK, loc="upper right"
            )

    return _render(draw, fmt)


def distance_gauge(
    people: Mapping[str, float], celebrities: Sequence[float] | None = None, *, fmt: Format = "svg"
) -> bytes:
    """How far people lie from the mean celebrity, in units of the celebrities' own root-mean-square distance.

    Parameters: ``people`` maps names to distances; ``celebrities`` are the celebrities' own distances in the same unit,
    drawn as the grey hill behind; without them only their root mean square, 1, is marked.
    """
    far = max([1.0, *people.values(), *(celebrities if celebrities is not None else ())])

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        top = 1.0
        if celebrities is not None and len(celebrities) > 1:
            counts, edges = np.histogram(_finite(celebrities), bins=40, range=(0, far * 1.08))
            heights = counts / max(1, counts.max())
            axes.stairs(heights * top, edges, fill=True, color=QUIET, alpha=0.3, linewidth=0)
        axes.axvline(1.0, color=QUIET, linewidth=1.2, linestyle=(0, (5, 4)))
        axes.annotate(
            "celebrities", (1.0, 1.1), xytext=(4, 0), textcoords="offset points", color=QUIET, fontsize=9.5, va="top"
        )
        for index, (name, distance) in enumerate(people.items()):
            colour = SERIES[index % len(SERIES)]
            height = 0.75 - 0.6 * index / max(1, len(people) - 1) if len(people) > 1 else 0.5
            axes.plot([distance, distance], [0, height], color=colour, linewidth=1.6)
            axes.plot([distance], [height], color=colour, marker="o", markersize=8)
            right = distance < far * 0.6
            axes.annotate(
                f"{_label(name, 22).strip()}  {distance:.2f}",
                (distance, height),
                xytext=(9 if right else -9, 0),
                textcoords="offset points",
                ha="left" if right else "right",
                va="center",
                color=INK,
            )
        _chart_frame(axes)
        axes.grid(visible=False)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlim(0, far * 1.08)
        axes.set_ylim(0, 1.14)
        axes.set_xlabel("distance to the mean celebrity (1: the celebrities' own)")

    return _render(draw, fmt, height=2.2 + 0.12 * max(0, len(people) - 2))


def _render(draw: Callable[[Any], None], fmt: Format, height: float = _HEIGHT) -> bytes:
    import matplotlib
    from matplotlib.figure import Figure

    stream = io.BytesIO()
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # A name in an alphabet that the font lacks: an SVG's reader has other fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure: Any = Figure(figsize=(_WIDTH, height), layout="constrained", facecolor=PAPER)
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
        draw(figure)
        metadata = {"Date": None, "Creator": None} if fmt == "svg" else {"Software": None}
        figure.savefig(stream, format=fmt, dpi=160, metadata=metadata)
    return stream.getvalue()


def _chart_frame(axes: Any) -> None:
    axes.set_facecolor("none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(QUIET)
    axes.tick_params(which="both", colors=QUIET, labelcolor=INK)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
        text.set_color(INK)
    axes.title.set_fontsize(10.5)


def _limit(axes: Any, values: Any) -> None:
    """Keep a few outliers from flattening the curve: the axis ends at the 99th percentile."""
    shown = values[np.isfinite(values)]
    if shown.size:
        low, high = float(shown.min()), float(np.quantile(shown, 0.99))
        room = (high - low) * 0.08 or abs(high) * 0.1 or 0.1
        axes.set_ylim(low - room, high + room)


def _finite(values: Sequence[float]) -> Any:
    array = np.array(values, dtype=np.float64)
    array[~np.isfinite(array)] = np.nan
    return array


def _logarithmic(axes: Any) -> None:
    """A logarithmic y axis with plain numbers; 2 and 5 are labelled too where there are few decades."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()

    def minor(value: float, _: object) -> str:
        digit = round(value / 10 ** np.floor(np.log10(value)), 6) if value > 0 else 0
        return f"{value:.3g}" if high < 50 * low and digit in (2.0, 5.0) else ""

    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(minor)


def _label(name: str, most: int = 28) -> str:
    """A name as a label: on one line, of bearable length; the space keeps matplotlib from skipping a leading "_"."""
    plain = " ".join("".join(char if char.isprintable() else " " for char in name).split())
    return " " + (plain if len(plain) <= most else plain[: most - 1] + "…")


_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""Control characters, those that turn the direction of writing, and what is no character."""
_TAG = re.compile(r"<[^>]*>")
_COLOURS = {
    INK: "--ink",
    QUIET: "--quiet",
    GRID: "--line",
    PAPER: "--card",
    **{colour: f"--series-{index}" for index, colour in enumerate(SERIES)},
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


def generated_image_uri(picture: Image.Image, largest: int) -> tuple[str, int, int]:
    """:func:`data_uri` of a picture that was drawn, which says so of itself (:mod:`celeb_basis.provenance`)."""
    from PIL import Image

    small = picture.convert("RGB")
    small.info = dict(picture.info)
    small.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    return _jpeg_uri(generated_image_bytes(small, "JPEG")), small.width, small.height


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
        uri, width, height = generated_image_uri(marked(Image.fromarray(picture), drawn), largest)
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
    """One of :mod:`celeb_basis.report.charts`' SVGs as a part of the page, in the page's own colours and font.

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
