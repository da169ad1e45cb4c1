"""The evidence as a page: tables, hypotheses with their outcome, and curves of every metric as SVG."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.evidence.plan import (
    CEILING,
    CEILING_PICTURES,
    CROSS_INITIALIZATION,
    DESCRIBED,
    GUESS,
    LORA_TUNED_TIMED,
    MEAN,
    NEAREST,
    PAPER,
    RANDOM,
    STABLE_IDENTITY,
    TEXTUAL_INVERSION,
    TEXTUAL_INVERSION_DESCRIBED,
    TUNED,
)
from benchmarks.evidence.summary import (
    ALL_METRICS,
    CHOOSING,
    PAIRED_METRICS,
    Difference,
    Row,
    evaluations_to_reach,
    separated,
    shown,
)
from celeb_basis.evaluation.metrics import Estimate
from celeb_basis.files import write_bytes, write_text
from celeb_basis.report.charts import GRID, INK, QUIET, SERIES
from celeb_basis.report.charts import PAPER as BACKGROUND

FINDINGS = Path(__file__).with_name("findings.md")
"""The interpretation of the miniature's figures, written by hand; a part of its page."""

REAL_WEIGHTS = Path(__file__).with_name("real_weights.md")
"""How to get the same table on other weights; a part of the miniature's page."""

TITLES = {
    "identity": "Identity",
    "recognized": "Recognized",
    "second_opinion": "Second opinion",
    "third_opinion": "Third opinion",
    "prompt": "Prompt",
    "detect": "Detect",
    "diversity": "Diversity",
    "both": "Both, on their sides",
}
SHARE = "Identity, share of the ceiling"
"""A column of :func:`table`."""

_COSTS = {"evaluations": "denoiser evaluations per person", "seconds": "seconds of learning per person"}
_DASHES = ("-", "--", ":", "-.")


def table(rows: Sequence[Row]) -> str:
    """The end of every method, as Markdown.

    Where a name that the model knows was measured, each Identity is given as a share of that as well. A metric that no method
    has is left out.
    """
    measured = [name for name in ALL_METRICS if any(row.last.figures[name] is not None for row in rows)]
    ceiling = next((row.last.figures["identity"] for row in rows if row.method == CEILING), None)
    head = ["method", "strangers × seeds", "evaluations", "seconds", *(TITLES[name] for name in measured)]
    place = 1 + head.index(TITLES["identity"])
    lines = []
    for row in rows:
        cells = [
            row.method,
            f"{row.strangers} × {row.seeds}",
            f"{row.last.evaluations:,.0f}",
            f"{row.last.seconds:.1f} + {row.last.encoding_seconds:.1f}",
            *(shown(row.last.figures[name]) for name in measured),
        ]
        if ceiling is not None:
            cells.insert(place, _share(row.last.figures["identity"], ceiling))
        lines.append(f"| {' | '.join(cells)} |")
    if ceiling is not None:
        head.insert(place, SHARE)
    return "\n".join([f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *lines])


def hypotheses(rows: Sequence[Row], planned: Sequence[str] | None = None, *, shortened: bool = False) -> list[str]:
    """The hypotheses, one per line, each with yes, no, or what is missing to test it.

    Args:
        rows: The methods that were measured.
        planned: Methods of the plan: what needs others is left out. All by default.
        shortened: Whether recipes ran for fewer steps than their own: what is about steps is left out.
    """
    known = {row.method: row for row in rows}
    lines = []

    def add(text: str, *needed: str, metrics: Sequence[str], holds: Callable[[], bool]) -> None:
        if planned is not None and not set(needed) <= set(planned):
            return
        missing = [name for name in needed if name not in known]
        missing += [
            f"{TITLES[metric]} of {name}"
            for name in needed
            if name in known
            for metric in metrics
            if figure(name, metric) is None
        ]
        outcome = f"not tested: {', '.join(missing)} missing" if missing else ("yes" if holds() else "**no**")
        lines.append(f"- {text}: {outcome}")

    def figure(name: str, metric: str) -> Estimate | None:
        return known[name].last.figures[metric]

    def higher(metric: str, one: str, other: str) -> None:
        add(
            f"*{one}* has a higher {TITLES[metric]} than *{other}* (intervals do not overlap)", one, other,
            metrics=[metric],
            holds=lambda: separated(figure(one, metric), figure(other, metric)),
        )  # fmt: skip

    def not_lower(metric: str, one: str, other: str) -> None:
        add(
            f"*{one}* has no lower {TITLES[metric]} than *{other}* (means)", one, other,
            metrics=[metric],
            holds=lambda: _value(figure(one, metric)) >= _value(figure(other, metric)),
        )  # fmt: skip

    def at_least(text: str, metric: str, one: str, factor: float, other: str) -> None:
        add(
            text, one, other, metrics=[metric],
            holds=lambda: _value(figure(one, metric)) >= factor * max(_value(figure(other, metric)), 1e-9),
        )  # fmt: skip

    for one in (PAPER, DESCRIBED, "balanced"):
        for other in (RANDOM, MEAN, NEAREST, GUESS):
            higher("identity", one, other)
        for other in (TEXTUAL_INVERSION, LORA_TUNED_TIMED, *([TEXTUAL_INVERSION_DESCRIBED] if one != PAPER else [])):
            higher("prompt", one, other)
            not_lower("identity", one, other)
    for ours in (PAPER, "balanced", "best"):
        at_least(
            f"two people of *{ours}* are recognized together at least three times as often as with textual inversion",
            "both", ours, 3, TEXTUAL_INVERSION,
        )  # fmt: skip
    if not shortened:
        add(
            "*quick* reaches *paper*'s final Identity with at most a fifth of its denoiser evaluations", PAPER, "quick",
            metrics=["identity"],
            holds=lambda: (
                _value(figure("quick", "identity")) >= _value(figure(PAPER, "identity"))
                and known["quick"].last.evaluations <= known[PAPER].last.evaluations / 5
            ),
        )  # fmt: skip
    higher("identity", "best", PAPER)
    not_lower("prompt", "best", PAPER)
    for one, share in (("balanced", 0.8), ("best", 0.9)):
        for known_name in (CEILING, CEILING_PICTURES):
            text = f"*{one}* reaches {share:.0%} of the Identity of *{known_name}* (means)"
            at_least(text, "identity", one, share, known_name)
        not_lower("prompt", one, CEILING)
    at_least(
        f"two people of *best* are recognized together at least 60 % as often as those of *{CEILING}* (means)",
        "both", "best", 0.6, CEILING,
    )  # fmt: skip
    for one in ("balanced", "best"):
        for other in (STABLE_IDENTITY, CROSS_INITIALIZATION):
            not_lower("identity", one, other)
            higher("prompt", one, other)
    higher("identity", STABLE_IDENTITY, PAPER)
    higher("identity", CROSS_INITIALIZATION, TEXTUAL_INVERSION)
    for other in TUNED:
        higher("identity", "best", other)
        not_lower("prompt", "best", other)
    return lines


def paired_table(differences: Sequence[Difference], metrics: Sequence[str] = PAIRED_METRICS) -> str:
    """Differences on the same strangers, as Markdown; those whose interval excludes zero are bold."""
    head = ["method", "minus", "strangers", *(TITLES[name] for name in metrics)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for one in differences:
        figures = (shown(one.figures[name], signed=True) for name in metrics)
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


@dataclass(frozen=True)
class Described:
    """What a page says of its run."""

    testbed: str
    """The testbed's key."""
    commands: Sequence[str]
    """How to reproduce the page."""
    judge: str
    """What measures Identity, in words."""
    second_judge: str
    """What gives the second opinion, in words; empty if there is none."""
    third_judge: str = ""
    """What gives the third opinion, in words; empty if there is none."""
    prompt: str = "the share of images in which a scene classifier finds what the prompt asks for"
    """What Prompt is, in words."""
    notes: Sequence[str] = ()
    """Sentences about people and figures that are left out."""
    findings: str = ""
    """The interpretation of the figures, as Markdown with a heading."""
    more: str = ""
    """More sections at the end, as Markdown."""


def write_page(
    path: Path,
    rows: Sequence[Row],
    about: Described,
    *,
    planned: Sequence[str] = (),
    steps: int = 0,
    paired: Sequence[Difference] = (),
    snapshots: Sequence[Difference] = (),
) -> None:
    """Write the page, and its curves, if anything was measured on the way, into a folder of the same name beside it.

    Args:
        path: The Markdown file.
        rows: The methods.
        about: What is said of the run.
        planned: Methods of the plan; what they cannot answer is left out. All hypotheses are listed by default.
        steps: The most steps per person that recipes ran for; 0 for their own.
        paired: Differences on the same strangers.
        snapshots: What keeping the best snapshot of a run would change.
    """
    notes = [
        *about.notes,
        *([f"**Recipes ran for at most {steps} steps:** these figures say little."] if steps else []),
    ]
    known = {row.method for row in rows}
    missing = [f"*{name}*" for name in planned if name not in known]
    second = f" **Second opinion**: the same\n  as Identity by {about.second_judge}." if about.second_judge else ""
    third = f" **Third opinion**: by {about.third_judge}." if about.third_judge else ""
    diversity = ""
    if any(row.last.figures["diversity"] is not None for row in rows):
        diversity = "- **Diversity**: root-mean-square difference of two images of the same prompt.\n"
    pictures = ""
    if CEILING_PICTURES in {*known, *planned}:
        pictures = (
            f" *{CEILING_PICTURES}*, compares the same images with pictures\n  of the people whom the model was shown under "
            "these names: the kind that strangers are compared with."
        )
    sections = [
        f"""# Evidence

People whom the model has never seen (*strangers*) are learned from one photo each on `{about.testbed}`. Images are generated
of scenes in which they were never shown. All intervals are 95 % intervals over strangers.

- **Identity**: similarity to other photos of the same person by {about.judge}, over images with a face. **Recognized**: the
  share of images in which the most similar of all strangers, by the same network, is the right one.{second}{third}
- **{SHARE}**: Identity divided by that of *{CEILING}*: names of the list, drawn by the model itself, against other images
  of the same name.{pictures}
- **Prompt**: {about.prompt}. **Detect**: the share of images
  in which a face is found.
{diversity}- **Both, on their sides**: the share of images with two people in which both are recognized, the first-named on the
  left.
- Denoiser evaluations and seconds (learning + encoding of views; on a CPU those of its processors) are per person.
{"".join(f"- {note}{chr(10)}" for note in notes)}
{table(rows)}
""",
        f"**Not yet measured:** {', '.join(missing)}.\n" if missing else "",
        f"""## Hypotheses
{chr(10).join(hypotheses(rows, planned or None, shortened=steps > 0))}
""",
        f"""## Paired differences
The mean over strangers of the difference of two methods on the same stranger and seeds, with 95 % intervals; bold where the
interval excludes zero. With this many comparisons, some are bold by chance.

{paired_table(paired)}
"""
        if paired
        else "",
        f"{about.findings.strip()}\n" if about.findings else "",
        _snapshots_section(snapshots),
        f"""## Speed
{speed_table(rows) or "*paper* is missing."}
"""
        if any(len(row.points) > 1 for row in rows)
        else "",
        _curves_section(path.with_suffix(""), rows),
        f"""## Reproduce
```
{chr(10).join(about.commands)}
```
""",
        f"{about.more.strip()}\n" if about.more else "",
    ]
    write_text(path, "\n".join(section for section in sections if section))


def _curves_section(folder: Path, rows: Sequence[Row]) -> str:
    if not any(len(row.points) > 1 for row in rows):
        return ""
    images = []
    for metric in ALL_METRICS:
        if all(row.last.figures[metric] is None for row in rows):
            continue
        for cost in _COSTS:
            file = folder / f"{metric.replace('_', '-')}-{cost}.svg"
            write_bytes(file, curves(rows, metric, cost))
            images.append(f"![{TITLES[metric]} against {cost}]({folder.name}/{file.name})")
    tracked = max(
        (figure.count for row in rows if len(row.points) > 1 if (figure := row.points[-1].figures["prompt"])), default=0
    )
    return f"""## Curves
Over the strangers whose runs were measured at every milestone ({tracked} here). Their last points differ from the table's
figures, which are over all strangers.

{chr(10).join(images)}
"""


def _snapshots_section(differences: Sequence[Difference]) -> str:
    if not differences:
        return ""
    return f"""## Keeping the best snapshot
The presets keep the last state of a run, a moving average over its steps. Where a run was measured at several milestones, this
is what keeping the snapshot with the highest second opinion would change. A user's program could choose by nothing else: other
judges do not ship with it. The same images serve both networks, which favors the choice.

{paired_table(differences, (CHOOSING, *PAIRED_METRICS))}
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


def _share(figure: Estimate | None, ceiling: Estimate) -> str:
    if figure is None or ceiling.value <= 0:
        return "–"
    return f"{figure.value / ceiling.value:.0%}"


def _value(figure: Estimate | None) -> float:
    return float("-inf") if figure is None else figure.value
