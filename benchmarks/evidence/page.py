"""The evidence as a page: tables, hypotheses with their outcome, and curves of every metric as SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.evidence.plan import (
    DESCRIBED,
    FORMER_BALANCED,
    GUESS,
    LORA,
    MEAN,
    NEAREST,
    PAPER,
    RANDOM,
    TEXTUAL_INVERSION,
    TEXTUAL_INVERSION_DESCRIBED,
)
from benchmarks.evidence.summary import (
    ALL_METRICS,
    PAIRED_METRICS,
    Difference,
    Row,
    evaluations_to_reach,
    separated,
    significant,
)
from celeb_basis.evaluation.metrics import Estimate
from celeb_basis.files import write_bytes, write_text
from celeb_basis.report.charts import GRID, INK, QUIET, SERIES
from celeb_basis.report.charts import PAPER as BACKGROUND

FINDINGS = Path(__file__).with_name("findings.md")
"""The interpretation of the figures, written by hand; a part of the page."""

TITLES = {
    "identity": "Identity",
    "recognized": "Recognized",
    "second_opinion": "Second opinion",
    "prompt": "Prompt",
    "detect": "Detect",
    "diversity": "Diversity",
    "both": "Both, on their sides",
}
_COSTS = {"evaluations": "denoiser evaluations per person", "seconds": "seconds of learning per person"}
_DASHES = ("-", "--", ":", "-.")


def table(rows: Sequence[Row]) -> str:
    """The end of every method, as Markdown."""
    head = ["method", "strangers × seeds", "evaluations", "seconds", *(TITLES[name] for name in ALL_METRICS)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        cells = [
            row.method,
            f"{row.strangers} × {row.seeds}",
            f"{row.last.evaluations:,.0f}",
            f"{row.last.seconds:.1f} + {row.last.encoding_seconds:.1f}",
            *(_shown(row.last.figures[name]) for name in ALL_METRICS),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def hypotheses(rows: Sequence[Row]) -> list[str]:
    """The hypotheses, one per line, each with yes, no, or the methods that are missing to test it."""
    known = {row.method: row for row in rows}
    lines = []

    def add(text: str, *needed: str, holds: object) -> None:
        missing = [name for name in needed if name not in known]
        outcome = f"not tested: {', '.join(missing)} missing" if missing else ("yes" if holds() else "**no**")  # type: ignore[operator]
        lines.append(f"- {text}: {outcome}")

    def figure(name: str, metric: str) -> Estimate | None:
        return known[name].last.figures[metric]

    def higher(metric: str, one: str, other: str) -> None:
        add(
            f"*{one}* has a higher {TITLES[metric]} than *{other}* (intervals do not overlap)", one, other,
            holds=lambda: separated(figure(one, metric), figure(other, metric)),
        )  # fmt: skip

    def not_lower(metric: str, one: str, other: str) -> None:
        add(
            f"*{one}* has no lower {TITLES[metric]} than *{other}* (means)", one, other,
            holds=lambda: _value(figure(one, metric)) >= _value(figure(other, metric)),
        )  # fmt: skip

    for one in (PAPER, DESCRIBED, "balanced"):
        for other in (RANDOM, MEAN, NEAREST, GUESS):
            higher("identity", one, other)
        for other in (TEXTUAL_INVERSION, LORA, *([TEXTUAL_INVERSION_DESCRIBED] if one != PAPER else [])):
            higher("prompt", one, other)
            not_lower("identity", one, other)
    for ours in (PAPER, "balanced", "best"):
        add(
            f"two people of *{ours}* are recognized together at least three times as often as with textual inversion",
            ours,
            TEXTUAL_INVERSION,
            holds=lambda ours=ours: (
                _value(figure(ours, "both")) >= 3 * max(_value(figure(TEXTUAL_INVERSION, "both")), 1e-9)
            ),
        )
    add(
        "*quick* reaches *paper*'s final Identity with at most a fifth of its denoiser evaluations", PAPER, "quick",
        holds=lambda: (
            _value(figure("quick", "identity")) >= _value(figure(PAPER, "identity"))
            and known["quick"].last.evaluations <= known[PAPER].last.evaluations / 5
        ),
    )  # fmt: skip
    higher("identity", "best", PAPER)
    not_lower("prompt", "best", PAPER)
    return lines


def paired_table(differences: Sequence[Difference]) -> str:
    """Differences on the same strangers, as Markdown; those whose interval excludes zero are bold."""
    head = ["method", "minus", "strangers", *(TITLES[name] for name in PAIRED_METRICS)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for one in differences:
        figures = (_signed(one.figures[name]) for name in PAIRED_METRICS)
        cells = [one.method, one.baseline, str(one.strangers), *figures]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def speed_table(rows: Sequence[Row]) -> str:
    """Evaluations that each method needs to reach *paper*'s final Identity, over the tracked strangers, as Markdown.

    Empty without *paper*.
    """
    paper = next((row for row in rows if row.method == PAPER), None)
    level = paper.points[-1].figures["identity"] if paper else None
    if paper is None or level is None:
        return ""
    lines = ["| method | evaluations to reach *paper*'s final Identity | share of *paper*'s |", "|---|---|---|"]
    for row in rows:
        needed = evaluations_to_reach(row, "identity", level.value)
        if row.last.evaluations and needed is not None:
            lines.append(f"| {row.method} | {needed:,.0f} | {needed / paper.last.evaluations:.2f} |")
    return "\n".join(lines)


def write_page(
    path: Path,
    rows: Sequence[Row],
    *,
    testbed: str,
    commands: Sequence[str],
    judge: str,
    second_judge: str,
    paired: Sequence[Difference] = (),
    rejected: Sequence[Row] = (),
    rejected_paired: Sequence[Difference] = (),
) -> None:
    """Write the page, and its curves into a folder of the same name beside it.

    Args:
        path: The Markdown file.
        rows: The methods.
        testbed: The testbed's key.
        commands: How to reproduce the page.
        judge: What measures Identity, in words.
        second_judge: What gives the second opinion, in words.
        paired: Differences on the same strangers.
        rejected: Candidates that were rejected.
        rejected_paired: Differences of the rejected candidates.
    """
    folder = path.with_suffix("")
    images = []
    for metric in ALL_METRICS:
        for cost in _COSTS:
            file = folder / f"{metric.replace('_', '-')}-{cost}.svg"
            write_bytes(file, curves(rows, metric, cost))
            images.append(f"![{TITLES[metric]} against {cost}]({folder.name}/{file.name})")
    tracked = max(
        (figure.count for row in rows if len(row.points) > 1 if (figure := row.points[-1].figures["prompt"])), default=0
    )
    text = f"""# Evidence

People whom the model has never seen (*strangers*) are learned from one photo each on `{testbed}`. Images are generated
of scenes in which they were never shown. All intervals are 95 % intervals over strangers.

- **Identity**: similarity to other photos of the same person by {judge}, over images with a face. **Recognized**: the share
  of images in which the most similar of all strangers, by the same network, is the right one. **Second opinion**: the same
  as Identity by {second_judge}.
- **Prompt**: the share of images in which a scene classifier finds what the prompt asks for. **Detect**: the share of images
  in which a face is found.
- **Diversity**: root-mean-square difference of two images of the same prompt.
- **Both, on their sides**: the share of images with two people in which both are recognized, the first-named on the left.
- Denoiser evaluations and seconds (learning + encoding of views) are per person.

{table(rows)}

## Hypotheses
{chr(10).join(hypotheses(rows))}

## Paired differences
The mean over strangers of the difference of two methods on the same stranger and seeds, with 95 % intervals; bold where the
interval excludes zero. With this many comparisons, some are bold by chance.

{paired_table(paired)}

{FINDINGS.read_text(encoding="utf-8").strip()}
{_rejected_section(rejected, rejected_paired)}
## Speed
{speed_table(rows) or "*paper* is missing."}

## Curves
Over the strangers whose runs were measured at every milestone ({tracked} here). Their last points differ from the table's
figures, which are over all strangers.

{chr(10).join(images)}

## Reproduce
```
{chr(10).join(commands)}
```
"""
    write_text(path, text)


def _rejected_section(rows: Sequence[Row], paired: Sequence[Difference]) -> str:
    if not rows:
        return ""
    return f"""
## Rejected candidates
*{FORMER_BALANCED}* is what *balanced* was before its coefficients started at the mean (`--mode head --start random` still
selects it). Every other row changes one thing of it (or of *best*, where its name begins with that), and is measured on the
first strangers of the table above. The code of these candidates was removed; `benchmarks/evidence/recipes.json` describes
them.

{table(rows)}

On the same strangers and seeds:

{paired_table(paired)}
"""


def curves(rows: Sequence[Row], metric: str, cost: str) -> bytes:
    """A metric against its cost as SVG: one line per method with its interval shaded, level for methods without cost.

    The same data gives the same bytes.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas

    style = {"svg.fonttype": "none", "svg.hashsalt": "celeb-basis", "font.family": ["DejaVu Sans"], "font.size": 10}
    with matplotlib.rc_context(style):
        canvas = Canvas(figsize=(8.4, 4.6), facecolor=BACKGROUND, layout="constrained")
        axes = canvas.subplots()
        for number, row in enumerate(rows):
            look = {"color": SERIES[number % len(SERIES)], "linestyle": _DASHES[number // len(SERIES) % len(_DASHES)]}
            _line(axes, row, metric, cost, look)
        axes.set_xscale("log")
        axes.set_xlabel(_COSTS[cost])
        axes.set_ylabel(TITLES[metric])
        axes.grid(color=GRID, linewidth=0.7)
        axes.set_facecolor(BACKGROUND)
        axes.tick_params(colors=QUIET)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="center left", bbox_to_anchor=(1.0, 0.5))
        buffer = io.BytesIO()
        FigureCanvasSVG(canvas).print_svg(buffer, metadata={"Date": None})
    return buffer.getvalue()


def _line(axes: Any, row: Row, metric: str, cost: str, look: dict[str, Any]) -> None:
    points = [(getattr(point, cost), found) for point in row.points if (found := point.figures[metric]) is not None]
    if not points:
        return
    if all(x == 0 for x, _ in points):
        axes.axhline(points[-1][1].value, linewidth=1.2, label=row.method, **look)
        return
    xs = [x for x, _ in points]
    axes.plot(
        xs, [found.value for _, found in points], linewidth=1.8, marker="o", markersize=3, label=row.method, **look
    )
    if all(found.low is not None for _, found in points):
        lows, highs = [found.low for _, found in points], [found.high for _, found in points]
        axes.fill_between(xs, lows, highs, color=look["color"], alpha=0.12, linewidth=0)


def _value(figure: Estimate | None) -> float:
    return float("-inf") if figure is None else figure.value


def _shown(figure: Estimate | None) -> str:
    if figure is None:
        return "–"
    return f"{figure.value:.3f}" + ("" if figure.low is None else f" ({figure.low:.3f} to {figure.high:.3f})")


def _signed(figure: Estimate | None) -> str:
    if figure is None:
        return "–"
    if figure.low is None or figure.high is None:
        return f"{figure.value:+.3f}"
    shown = f"{figure.value:+.3f} ({figure.low:+.3f} to {figure.high:+.3f})"
    return f"**{shown}**" if significant(figure) else shown
