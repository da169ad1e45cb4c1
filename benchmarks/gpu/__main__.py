"""``python -m benchmarks.gpu``: training on this computer's CUDA card in seconds, gigabytes and images a second.

The models have the full-size architectures of SD1.5, SD2.1 and SDXL, and random weights: nothing is downloaded, and the
figures are those of any checkpoint of the same architecture. Half precision; a few minutes on a fast card.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.gpu.card import Card
    from benchmarks.gpu.row import Measurement

PAGE = Path(__file__).resolve().parents[2] / "docs" / "speed.md"
BEGIN, END = "<!-- make bench-gpu ARGS=--write: begin -->", "<!-- make bench-gpu ARGS=--write: end -->"
FAMILIES = ("sd1", "sd2", "sdxl")
PRESETS = ("quick", "balanced")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, printing each line when it is known; returns 0, or 2 without a card."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES, help="only these architectures")
    parser.add_argument("--presets", nargs="*", default=PRESETS, help="whole runs of SD1.5; none: leave them out")
    parser.add_argument(
        "--write", action="store_true", help="put the table into docs/speed.md, in place of this card's"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to FILE")
    parser.add_argument(
        "--rehearse", action="store_true", help="try it on the processor with tiny models; its figures mean nothing"
    )
    options = parser.parse_args(arguments)
    import torch

    if not options.rehearse and not (torch.cuda.is_available() and torch.version.cuda):
        sys.stderr.write(
            f"torch {torch.__version__} finds no CUDA card: install a build of torch for CUDA on a computer with an NVIDIA "
            "card, or try the measurements with --rehearse.\n"
        )
        return 2
    from benchmarks.gpu.card import Card
    from benchmarks.gpu.row import shortened
    from celeb_basis.files import write_json, write_text

    card = Card(rehearse=options.rehearse)
    started = time.perf_counter()
    rows = []
    for measured in _measured(card, options):
        rows.append(row := shortened(measured))
        sys.stdout.write(f"{row.model:<12}  {row.what:<62}  {row.value:>10}  {row.detail}\n")
        sys.stdout.flush()
    taken = time.perf_counter() - started
    table = _table(card, rows, taken)
    sys.stdout.write(f"\n{table}")
    if options.json:
        write_json(options.json, {"card": card.name, "torch": torch.__version__, "rows": [vars(row) for row in rows]})
    if options.write and not options.rehearse:
        write_text(PAGE, with_table(PAGE.read_text(encoding="utf-8"), card.name, table))
        sys.stdout.write(f"Written to {PAGE}.\n")
    return 0


def _measured(card: Card, options: argparse.Namespace) -> Iterator[Measurement]:
    from benchmarks.gpu.measures import check_results, measure_family, without_failures
    from benchmarks.gpu.whole_runs import NAMES, measure_capped, measure_presets

    yield from without_failures("small models", check_results(card))
    for family in options.families:
        yield from without_failures(NAMES[family], measure_family(card, family))
        card.reset_peak()
        yield from without_failures(NAMES[family], measure_capped(card, family))
    if options.presets:
        yield from without_failures("SD1.5", measure_presets(card, "sd1", options.presets))


def _table(card: Card, rows: Sequence[Measurement], seconds: float) -> str:
    """The figures as a section in Markdown."""
    import diffusers
    import torch

    memory = f"{card.gigabytes:.0f} GB, " if card.gigabytes else ""
    lines = [
        f"### {card.name}",
        "",
        f"{memory}torch {torch.__version__}, diffusers {diffusers.__version__}, Python {platform.python_version()}, "
        f"{'float32' if card.rehearse else 'half precision'}, random weights; measured in {seconds / 60:.1f} minutes.",
        "",
        "| model, image size | measurement | value | |",
        "|---|---|---|---|",
        *(f"| {row.model} | {row.what} | {row.value} | {row.detail} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def with_table(page: str, card: str, table: str) -> str:
    """The text of ``docs/speed.md`` with the section of a card added or replaced.

    Raises:
        ValueError: If the page has no place for it.
    """
    before, found, rest = page.partition(BEGIN)
    inside, found_end, after = rest.partition(END)
    if not (found and found_end):
        raise ValueError(f"{PAGE.name} has no lines {BEGIN} and {END}: put them where the tables belong.")
    sections = [f"### {one.strip()}\n" for one in inside.split("### ")[1:] if one.splitlines()[0].strip() != card]
    return f"{before}{BEGIN}\n\n" + "\n".join([*sections, table]) + f"\n{END}{after}"


if __name__ == "__main__":
    sys.exit(main())
