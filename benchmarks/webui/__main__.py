"""``python -m benchmarks.webui``: one line per figure, in the format of ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.figures import Figure, exit_code, print_figures
from benchmarks.webui.measures import measure_learning, measure_tokens


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for, printing each figure when it is known."""
    from celeb_basis.files import write_json

    parser = argparse.ArgumentParser(prog="python -m benchmarks.webui", description=__doc__)
    parser.add_argument(
        "checkpoint", type=Path, nargs="?", help="an SD1.5 in a .safetensors file; one of random weights (4 GB) is made"
    )
    parser.add_argument("--side", type=int, default=256, help="side of the training images in pixels")
    parser.add_argument("--steps", type=int, default=4, help="steps of each kind in each of two rounds")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures, with details, to FILE")
    parser.add_argument(
        "--tokens-only", action="store_true", help="measure only the tokens, without CHECKPOINT on the WebUI's own sd1"
    )
    options = parser.parse_args(arguments)
    if not os.environ.get("CELEB_BASIS_WEBUI"):
        parser.error("set CELEB_BASIS_WEBUI to the folder of a WebUI, and CELEB_BASIS_WEBUI_PYTHON to its Python")
    with tempfile.TemporaryDirectory() as folder:
        figures = print_figures(_measure(options, Path(folder)))
    if options.json:
        write_json(options.json, {"figures": [figure.as_dict() for figure in figures]})
    return exit_code(figures)


def _measure(options: argparse.Namespace, folder: Path) -> Iterator[Figure]:
    if options.tokens_only:
        yield from measure_tokens(options.checkpoint)
        return
    checkpoint = options.checkpoint or _random_weights(folder)
    yield from measure_tokens(checkpoint)
    yield from measure_learning(checkpoint, options.side, options.steps)


def _random_weights(folder: Path) -> Path:
    """SD1.5's full-size architecture in the layout of the WebUI, which recognizes it by its keys."""
    from miniature.small_models.ldm_layout import save_single_file
    from miniature.small_models.pipelines import make_pipeline

    file = folder / "random-sd15.safetensors"
    save_single_file(make_pipeline("sd1", full_size=True), file)
    file.with_suffix(".yaml").unlink()
    return file


if __name__ == "__main__":
    sys.exit(main())
