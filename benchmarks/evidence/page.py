"""The evidence as a page: a table, what was to be shown, and curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.evidence.curves import curves
from benchmarks.evidence.paired import FIGURES, Difference, sure
from benchmarks.evidence.plan import (
    BALANCED_BEFORE,
    DESCRIBED,
    GUESS,
    LORA,
    MEAN,
    NEAREST,
    PAPER,
    RANDOM,
    TEXTUAL_INVERSION,
    TEXTUAL_INVERSION_DESCRIBED,
)
from benchmarks.evidence.summary import ALL_FIGURES, Row, apart, evaluations_to
from celeb_basis.evaluation.metrics import Estimate
from celeb_basis.files import write_bytes, write_text

FINDINGS = Path(__file__).with_name("findings.md")
"""What the figures mean, by hand; a part of the page."""

TITLES = {
    "identity": "Identity",
    "recognised": "Recognised",
    "second": "Second opinion",
    "prompt": "Prompt",
    "detect": "Detect",
    "diversity": "Diversity",
    "both": "Both, on their sides",
}


def table(rows: Sequence[Row]) -> str:
    """Where every contestant ended, as Markdown."""
    head = ["recipe", "strangers × seeds", "evaluations", "seconds", *(TITLES[name] for name in ALL_FIGURES)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        cells = [
            row.contestant,
            f"{row.strangers} × {row.seeds}",
            f"{row.last.evaluations:,.0f}",
            f"{row.last.seconds:.1f} + {row.last.prepared:.1f}",
            *(_shown(row.last.figures[name]) for name in ALL_FIGURES),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def claims(rows: Sequence[Row]) -> list[str]:
    """What was to be shown, each as a line that says yes or no, or that a contestant is missing."""
    known = {row.contestant: row for row in rows}
    lines = []

    def say(text: str, *needed: str, holds: object) -> None:
        missing = [name for name in needed if name not in known]
        verdict = f"not told: {', '.join(missing)} missing" if missing else ("yes" if holds() else "**no**")  # type: ignore[operator]
        lines.append(f"- {text}: {verdict}")

    def figure(name: str, what: str) -> Estimate | None:
        return known[name].last.figures[what]

    def more(what: str, one: str, other: str) -> None:
        say(
            f"*{one}* has more {TITLES[what]} than *{other}*, intervals apart", one, other,
            holds=lambda: apart(figure(one, what), figure(other, what)),
        )  # fmt: skip

    def no_less(what: str, one: str, other: str) -> None:
        say(
            f"*{one}* has no less {TITLES[what]} than *{other}* (means)", one, other,
            holds=lambda: _value(figure(one, what)) >= _value(figure(other, what)),
        )  # fmt: skip

    for one in (PAPER, DESCRIBED, "balanced"):
        for other in (RANDOM, MEAN, NEAREST, GUESS):
            more("identity", one, other)
        for other in (TEXTUAL_INVERSION, LORA, *([TEXTUAL_INVERSION_DESCRIBED] if one != PAPER else [])):
            more("prompt", one, other)
            no_less("identity", one, other)
    for ours in (PAPER, "balanced", "best"):
        say(
            f"two people of *{ours}* are recognised together at least three times as often as with textual inversion",
            ours,
            TEXTUAL_INVERSION,
            holds=lambda ours=ours: (
                _value(figure(ours, "both")) >= 3 * max(_value(figure(TEXTUAL_INVERSION, "both")), 1e-9)
            ),
        )
    say(
        "*quick* has *paper*'s last Identity with at most a fifth of its evaluations of the denoiser", PAPER, "quick",
        holds=lambda: (
            _value(figure("quick", "identity")) >= _value(figure(PAPER, "identity"))
            and known["quick"].last.evaluations <= known[PAPER].last.evaluations / 5
        ),
    )  # fmt: skip
    more("identity", "best", PAPER)
    no_less("prompt", "best", PAPER)
    return lines


def paired_table(found: Sequence[Difference]) -> str:
    """Differences on the same strangers, as Markdown; those whose interval leaves zero out are bold."""
    head = ["recipe", "less", "strangers", *(TITLES[name] for name in FIGURES)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for one in found:
        cells = [one.one, one.other, str(one.strangers), *(_difference(one.figures[name]) for name in FIGURES)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plateau(rows: Sequence[Row]) -> str:
    """How soon each contestant is as like as *paper* at its end, as Markdown, over the strangers that were watched on
    the way; empty without *paper*.
    """
    paper = next((row for row in rows if row.contestant == PAPER), None)
    level = paper.points[-1].figures["identity"] if paper else None
    if paper is None or level is None:
        return ""
    lines = ["| recipe | evaluations to *paper*'s last Identity | of *paper*'s |", "|---|---|---|"]
    for row in rows:
        needed = evaluations_to(row, "identity", level.value)
        if row.last.evaluations and needed is not None:
            lines.append(f"| {row.contestant} | {needed:,.0f} | {needed / paper.last.evaluations:.2f} |")
    return "\n".join(lines)


def write_page(
    path: Path,
    rows: Sequence[Row],
    *,
    world: str,
    commands: Sequence[str],
    judge: str,
    second: str,
    paired: Sequence[Difference] = (),
    left: Sequence[Row] = (),
    left_paired: Sequence[Difference] = (),
) -> None:
    """Write the page, and the curves into a folder of its name beside it; ``left`` are recipes that exist no more,
    ``paired`` and ``left_paired`` differences on the same strangers.
    """
    folder = path.with_suffix("")
    pictures = []
    for name in ALL_FIGURES:
        for cost in ("evaluations", "seconds"):
            file = folder / f"{name}-{cost}.svg"
            write_bytes(file, curves(rows, name, cost, TITLES[name]))
            pictures.append(f"![{TITLES[name]} against {cost}]({folder.name}/{file.name})")
    watched = max(
        (figure.count for row in rows if len(row.points) > 1 if (figure := row.points[-1].figures["prompt"])), default=0
    )
    text = f"""# Evidence

Strangers learned from one picture each in `{world}`, drawn in scenes never shown for them. 95 % intervals over strangers.

- **Identity**: likeness to other pictures of the same person, by {judge}, over pictures with a face. **Recognised**: how often
  the nearest of all strangers by the same judge is the right one. **Second opinion**: the same as Identity, by {second}.
- **Prompt**: how often a scene classifier sees what the prompt asks for. **Detect**: how often a face is found.
- **Diversity**: root-mean-square difference of two pictures of one prompt.
- **Both, on their sides**: pictures of two people in which both are recognised, the first named on the left.
- Evaluations of the denoiser and seconds (of learning + of encoding views) are for each person.

{table(rows)}

## What was to be shown
{chr(10).join(claims(rows))}

## On the same strangers
The mean of each stranger's difference, with 95 % intervals over strangers; bold where they leave zero out. With so many of
them some are bold by chance.

{paired_table(paired)}

{FINDINGS.read_text(encoding="utf-8").strip()}
{_left(left, left_paired)}
## How soon
{plateau(rows) or "*paper* is missing."}

## Curves
Of the strangers that were watched on the way ({watched} of them here): the last points are not the table's, which are of all.

{chr(10).join(pictures)}

## The commands
```
{chr(10).join(commands)}
```
"""
    write_text(path, text)


def _left(rows: Sequence[Row], paired: Sequence[Difference]) -> str:
    if not rows:
        return ""
    return f"""
## What was tried and left away
*{BALANCED_BEFORE}* was *balanced* until learning began at the mean (`--mode head --start random` is it still). Each other
row is one thing beside it (or beside *best*, where it says so), over the first strangers of the table above. Their code is
gone; what they were is told in their result files.

{table(rows)}

The same, on the same strangers and seeds:

{paired_table(paired)}
"""


def _value(figure: Estimate | None) -> float:
    return float("-inf") if figure is None else figure.value


def _shown(figure: Estimate | None) -> str:
    if figure is None:
        return "–"
    return f"{figure.value:.3f}" + ("" if figure.low is None else f" ({figure.low:.3f} to {figure.high:.3f})")


def _difference(figure: Estimate | None) -> str:
    if figure is None:
        return "–"
    if figure.low is None or figure.high is None:
        return f"{figure.value:+.3f}"
    shown = f"{figure.value:+.3f} ({figure.low:+.3f} to {figure.high:+.3f})"
    return f"**{shown}**" if sure(figure) else shown
