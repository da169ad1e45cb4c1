"""Curves of a figure against what it cost, as SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from benchmarks.evidence.summary import Row
from celeb_basis.report.charts import GRID, INK, PAPER, QUIET, SERIES

_DASHES = ("-", "--", ":", "-.")


def curves(rows: Sequence[Row], figure: str, cost: str, title: str) -> bytes:
    """One line a contestant with its interval shaded; contestants without cost are level lines. SVG, the same for the
    same data.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style = {"svg.fonttype": "none", "svg.hashsalt": "celeb-basis", "font.family": ["DejaVu Sans"], "font.size": 10}
    with matplotlib.rc_context(style):
        canvas = Figure(figsize=(8.4, 4.6), facecolor=PAPER, layout="constrained")
        axes = canvas.subplots()
        for number, row in enumerate(rows):
            look = {"color": SERIES[number % len(SERIES)], "linestyle": _DASHES[number // len(SERIES) % len(_DASHES)]}
            _line(axes, row, figure, cost, look)
        axes.set_xscale("log")
        axes.set_xlabel("denoiser evaluations a person" if cost == "evaluations" else "seconds of learning a person")
        axes.set_ylabel(title)
        axes.grid(color=GRID, linewidth=0.7)
        axes.set_facecolor(PAPER)
        axes.tick_params(colors=QUIET)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="center left", bbox_to_anchor=(1.0, 0.5))
        buffer = io.BytesIO()
        FigureCanvasSVG(canvas).print_svg(buffer, metadata={"Date": None})
    return buffer.getvalue()


def _line(axes: Any, row: Row, figure: str, cost: str, look: dict[str, Any]) -> None:
    points = [(getattr(point, cost), found) for point in row.points if (found := point.figures[figure]) is not None]
    if not points:
        return
    if all(x == 0 for x, _ in points):
        axes.axhline(points[-1][1].value, linewidth=1.2, label=row.contestant, **look)
        return
    xs = [x for x, _ in points]
    axes.plot(
        xs, [found.value for _, found in points], linewidth=1.8, marker="o", markersize=3, label=row.contestant, **look
    )
    if all(found.low is not None for _, found in points):
        lows, highs = [found.low for _, found in points], [found.high for _, found in points]
        axes.fill_between(xs, lows, highs, color=look["color"], alpha=0.12, linewidth=0)
