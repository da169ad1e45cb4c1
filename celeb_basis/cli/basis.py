"""``basis``: build the celeb basis of a model and inspect it."""

from __future__ import annotations

import argparse
import functools
from typing import TYPE_CHECKING, Any

from celeb_basis.cli.arguments import path_argument
from celeb_basis.cli.common import (
    Commands,
    UsageError,
    add_command,
    add_faces,
    add_model,
    add_names,
    check_output_file,
    open_faces,
    open_model,
    open_names,
)
from celeb_basis.cli.progress import Console
from celeb_basis.files import bases_cache, write_bytes, write_text

if TYPE_CHECKING:
    from celeb_basis.basis import BasisSummary, BuiltBasis
    from celeb_basis.diffusion_model import DiffusionModel
    from celeb_basis.faces.network import FaceNetwork
    from celeb_basis.names.lists import NameList

_DESCRIPTION = """\
Build the celeb basis of a model: the mean and the principal components of the token embeddings of celebrity names, for each
token position. Shows which names were used, which were dropped and why, how much of the variance the components explain,
and whether the basis was cached. 'learn' builds it by itself; this command is for inspecting it and for choosing names.

examples:
  celeb-basis basis --model /models/sd15.safetensors
  celeb-basis basis --model /models/sd15 --names mine.txt --components 200 --plot variance.svg
  celeb-basis basis --model /models/sd15 --max-synonyms 200 --save-names clear.txt     (then: learn --names clear.txt)
  celeb-basis basis --model /models/sd15 --draws-face --save-names drawn.txt     (then: learn --names drawn.txt)"""


def add_parser(commands: Commands) -> None:
    """Add ``basis`` to the commands."""
    parser = add_command(commands, "basis", "build the celeb basis of a model and inspect it", _DESCRIPTION)
    parser.set_defaults(run=run)
    add_model(parser)
    add_names(parser)
    parser.add_argument(
        "--components",
        type=int,
        metavar="K",
        help="components for each token position (default: 512, or two thirds of the text encoder's width)",
    )
    parser.add_argument("--dropped", action="store_true", help="list every name that was dropped, with the reason")
    parser.add_argument(
        "--plot", type=path_argument, metavar="FILE", help="plot the explained variance, as .svg or .png"
    )
    group = parser.add_argument_group("names")
    group.add_argument("--max-repeats", type=int, metavar="N", help="at most N names may share a first or a last token")
    group.add_argument(
        "--max-synonyms",
        type=int,
        metavar="N",
        help="drop names with a token that means nearly the same as more than N other words to CLIP-L, such as 200",
    )
    group.add_argument(
        "--draws-face", action="store_true", help="keep only names for which the model generates a face (slow)"
    )
    group.add_argument("--draw-steps", type=int, default=25, metavar="N", help="sampling steps of --draws-face")
    group.add_argument(
        "--save-names", type=path_argument, metavar="FILE", help="write the names that were used, one per line"
    )
    add_faces(group)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command; returns the exit code."""
    if arguments.components is not None and arguments.components < 1:
        raise UsageError("--components must be at least 1.")
    if arguments.plot is not None and arguments.plot.suffix.lower() not in (".svg", ".png"):
        raise UsageError("--plot must end in .svg or .png.")

    from celeb_basis.basis import BasisOptions, build_bases, fitting_components, summarize
    from celeb_basis.names.filters import FilterOptions

    check_output_file(arguments.plot)
    check_output_file(arguments.save_names)
    names = open_names(arguments)
    filters = FilterOptions(max_repeats=arguments.max_repeats, max_synonyms=arguments.max_synonyms)
    faces = open_faces(arguments, console) if arguments.draws_face else None
    model = open_model(arguments, console)
    components = arguments.components or fitting_components(model.text_encoders, BasisOptions().components)
    options = BasisOptions(components, filters)
    check = None if faces is None else _face_check(arguments, console, model, faces, names)
    built = build_bases(model.text_encoders, names, options, face_check=check, cache=bases_cache())
    summaries = [summarize(one) for one in built]
    _write_files(arguments, built, summaries)
    console.result({"model": model.info.name, "names": names.source, "bases": [one.as_dict() for one in summaries]})
    for summary in summaries:
        _show(summary, console, list_dropped=arguments.dropped)
    return 0


def _face_check(
    arguments: argparse.Namespace, console: Console, model: DiffusionModel, faces: FaceNetwork, names: NameList
) -> Any:
    """The check of generated faces, which is made once per name even with two text encoders."""
    from celeb_basis.names.filters import GeneratedFaceCheck

    bar = console.bar(len(names.names), "generating faces", unit="name")
    return functools.cache(
        GeneratedFaceCheck(model, faces, steps=arguments.draw_steps, progress=lambda _name, _why: bar.update())
    )


def _write_files(arguments: argparse.Namespace, built: tuple[BuiltBasis, ...], summaries: list[BasisSummary]) -> None:
    if arguments.save_names is not None:
        used = [name for name in built[0].filtered.names if all(name in one.filtered.names for one in built[1:])]
        write_text(arguments.save_names, "\n".join(used) + "\n")
    if arguments.plot is not None:
        from celeb_basis.report.charts import explained_variance

        columns = [column for summary in summaries for column in summary.explained]
        write_bytes(arguments.plot, explained_variance(columns, fmt=arguments.plot.suffix.lower()[1:]))


def _show(summary: BasisSummary, console: Console, *, list_dropped: bool) -> None:
    report = summary.report
    console.say(f"{summary.encoder}: {summary.components} components of {summary.width} numbers, two token positions")
    console.say(f"  names: {summary.names_used} used, {summary.names_dropped} dropped")
    for reason, count in report["counts"].items():
        example = next(item for item in report["dropped"] if item["kind"] == reason)
        console.say(f"    {count} for {reason}, such as {example['name']} ({example['reason']})")
    for position, shares in enumerate(summary.explained, start=1):
        marks = [k for k in (1, 10, 50, 100, 200, 512, 1024) if k < len(shares)] + [len(shares)]
        listed = ", ".join(f"{sum(shares[:k]):.1%} by {k}" for k in marks)
        console.say(f"  variance explained at position {position}: {listed}")
    console.say(f"  spread of the names: {', '.join(f'{value:.3f}' for value in summary.spread)}")
    console.say(f"  {'from the cache' if summary.from_cache else 'newly built'}, {summary.sha256[:12]}")
    if list_dropped:
        for item in report["dropped"]:
            console.say(f"  dropped: {item['name']} ({item['reason']})")
