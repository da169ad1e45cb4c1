"""Charts of a basis and of a training run, as SVG or PNG bytes, and as inline SVG for a page.

matplotlib is used through its object-oriented interface only, so that a host's own pyplot state stays untouched. An SVG
depends on its data alone: it holds no date and no random ids.
"""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from celeb_basis.templating import render

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from markupsafe import Markup

Format = Literal["svg", "png"]

INK, QUIET, GRID, PAPER = "#1d2430", "#5b6472", "#e1e4e9", "#fdfdfc"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""The Okabe-Ito palette, which color-blind readers can tell apart. A page may replace these and the four above by its own."""

_STYLE = {
    "svg.fonttype": "none",  # text stays text: it can be searched and read aloud, and takes the page's font
    "svg.hashsalt": "celeb-basis",
    "text.parse_math": False,  # a person may be called $x$
    "axes.formatter.use_mathtext": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 10.5,
}
_WIDTH, _HEIGHT = 5.6, 3.0
_MOST_LABELED = len(SERIES)


def explained_variance(columns: Sequence[Sequence[float]], *, fmt: Format = "svg") -> bytes:
    """Plot the share of the celebrities' variance that each component explains, and its running sum.

    Args:
        columns: ``E`` sequences, one per token position, of ``K`` shares from 0 to 1, largest first.
        fmt: Format of the file.
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
        single.set_title("per component, %")
        running.set_title("cumulative, %")
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
    """Plot the loss of every step, faint, and its moving average, on a logarithmic axis if the range is wide."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        raw, mean = _finite(losses), _finite(averages)
        axes.plot(steps, raw, color=SERIES[0], linewidth=0.9, alpha=0.4, label="every step")
        axes.plot(steps, mean, color=SERIES[0], linewidth=2.2, label="moving average")
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
    """Plot how much each person's averaged coefficients still move, and the line below which they count as settled.

    Args:
        people: Steps and relative movements by name.
        settled: The setting of that name.
        fmt: Format of the file.
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
        if 1 < len(people) <= _MOST_LABELED:
            axes.legend(
                lines, [_label(name) for name in people], frameon=False, fontsize=9.5, labelcolor=INK, loc="upper right"
            )

    return _render(draw, fmt)


def distance_gauge(
    people: Mapping[str, float], celebrities: Sequence[float] | None = None, *, fmt: Format = "svg"
) -> bytes:
    """Plot how far people lie from the mean celebrity, in units of the celebrities' root-mean-square distance.

    Args:
        people: Distances by name.
        celebrities: The celebrities' own distances in the same unit, shown as a gray histogram behind the people. Without
            them only their root mean square, 1, is marked.
        fmt: Format of the file.
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
            color = SERIES[index % len(SERIES)]
            height = 0.75 - 0.6 * index / max(1, len(people) - 1) if len(people) > 1 else 0.5
            axes.plot([distance, distance], [0, height], color=color, linewidth=1.6)
            axes.plot([distance], [height], color=color, marker="o", markersize=8)
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
        axes.set_xlabel("distance to the mean celebrity (1: the celebrities' root mean square)")

    return _render(draw, fmt, height=2.2 + 0.12 * max(0, len(people) - 2))


def _render(draw: Callable[[Any], None], fmt: Format, height: float = _HEIGHT) -> bytes:
    import matplotlib
    from matplotlib.figure import Figure

    stream = io.BytesIO()
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # A name may be in a script that this font lacks; the SVG's viewer has other fonts.
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
    """End the y axis at the 99th percentile, so that a few outliers do not flatten the curve."""
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
    """Make the y axis logarithmic with plain numbers; 2 and 5 are labeled too if it spans few decades."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()

    def minor(value: float, _: object) -> str:
        digit = round(value / 10 ** np.floor(np.log10(value)), 6) if value > 0 else 0
        return f"{value:.3g}" if high < 50 * low and digit in (2.0, 5.0) else ""

    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(minor)


def _label(name: str, most: int = 28) -> str:
    """A name as a short label of one line. The space keeps matplotlib from skipping a name that begins with "_"."""
    plain = " ".join("".join(char if char.isprintable() else " " for char in name).split())
    return " " + (plain if len(plain) <= most else plain[: most - 1] + "…")


_TAG = re.compile(r"<[^>]*>")
_COLORS = {
    INK: "--ink",
    QUIET: "--quiet",
    GRID: "--line",
    PAPER: "--card",
    **{color: f"--series-{index}" for index, color in enumerate(SERIES)},
}


def chart(svg: bytes, described: str, prefix: str) -> Markup:
    """Make one of this module's SVG charts part of a page, in the page's own colors and font.

    Args:
        svg: A chart with ``fmt="svg"``.
        described: Its text alternative.
        prefix: Keeps its ids apart from those of other charts on the page.

    Returns:
        An ``svg`` element of the class ``chart``.
    """
    from markupsafe import Markup

    found = re.search(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>(.*)</svg>', svg.decode("utf-8"), re.DOTALL)
    assert found is not None
    view_box, drawing = found.groups()
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, count=1, flags=re.DOTALL)
    # Its style sheet would apply to the whole page: the chart's class carries these two rules instead.
    drawing = re.sub(r"<style.*?</style>", "", drawing, count=1, flags=re.DOTALL)

    def adapted(match: re.Match[str]) -> str:
        tag = re.sub(r'( id="|xlink:href="#|url\(#)', rf"\g<1>{prefix}-", match.group())
        tag = tag.replace("xlink:href", "href").replace("'DejaVu Sans'", "inherit")
        for color, variable in _COLORS.items():
            tag = tag.replace(color, f"var({variable})")
        return tag

    # matplotlib has escaped the names among its text.
    drawing = Markup(_TAG.sub(adapted, drawing))
    return render("celeb_basis.report", "chart.html.jinja", view_box=view_box, described=described, drawing=drawing)
