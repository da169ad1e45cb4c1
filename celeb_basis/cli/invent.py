"""``invent``: sheets of people who do not exist, from which one is saved like any person."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeb_basis.cli.arguments import command_line, name_argument, path_argument, text_argument
from celeb_basis.cli.common import (
    Commands,
    UsageError,
    add_command,
    add_library,
    add_model,
    add_names,
    add_replace,
    bases_for,
    check_folder,
    check_name_is_free,
    open_library,
    open_model,
    open_names,
)
from celeb_basis.cli.generate import add_sampling, check_sampling
from celeb_basis.cli.progress import Console
from celeb_basis.settings import TrainingSettings

if TYPE_CHECKING:
    from PIL import Image

    from celeb_basis.diffusion_model import DiffusionModel
    from celeb_basis.identities.identity import Identity

_DESCRIPTION = """\
Invent people who do not exist, from the celebrities' names alone: no photo, no training, no face models. Each run makes a
sheet of nine in the next folder below --output (001, 002, ...): sheet.png to look at, and an identity file of each person.
--more and --less take numbers of the last sheet and make the next one alike and unlike them; --keep takes people over. At
last, --save adds one to the library, under the suggested name or --name. The same seed makes the same people.

examples:
  celeb-basis invent --model /models/sd15 --output sheets
  celeb-basis invent --model /models/sd15 --output sheets --group women --group "East Asia"
  celeb-basis invent --model /models/sd15 --output sheets --more 3 --more 5 --less 7 --keep 1
  celeb-basis invent --output sheets --save 4 --name mira"""

MAX_PEOPLE = 36
SHEET_FILE = "sheet.png"


def add_parser(commands: Commands) -> None:
    """Add ``invent`` to the commands."""
    parser = add_command(commands, "invent", "invent people who do not exist", _DESCRIPTION)
    parser.set_defaults(run=run)
    parser.add_argument(
        "--output", type=path_argument, required=True, metavar="FOLDER", help="folder of the sheets, one below another"
    )
    parser.add_argument("--count", type=int, default=9, metavar="N", help="people of a sheet")
    parser.add_argument(
        "--way",
        choices=("mixed", "gaussian"),
        default="mixed",
        help="mixed: each token vector from another celebrity; gaussian: drawn from the celebrities' normal distribution",
    )
    parser.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="NAME",
        help="lean to a group of the list of names, such as women or Africa; repeatable",
    )
    parser.add_argument("--leaning", type=float, default=1.0, metavar="X", help="how much, 0 to 1")
    parser.add_argument(
        "--distance",
        type=float,
        default=1.0,
        metavar="X",
        help="0.25 to 2: less is more average, more is more peculiar",
    )
    parser.add_argument(
        "--components",
        type=int,
        metavar="N",
        help="basis components (K) per token vector; people of different numbers cannot be blended (default: "
        f"{TrainingSettings.components}, or two thirds of the model's width)",
    )
    _add_choice(parser)
    parser.add_argument(
        "--prompt",
        type=text_argument,
        default="a photo of {}",
        metavar="TEXT",
        help="prompt of the images; {} is the person",
    )
    add_sampling(parser)
    parser.set_defaults(seed=None, steps=20)
    add_library(parser)
    add_replace(parser)
    add_model(parser, required=False, why="; needed to make a sheet")
    add_names(parser)


def _add_choice(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("numbers of the last sheet")
    for option, about in (
        ("--more", "more like this one; repeatable"),
        ("--less", "less like this one; repeatable"),
        ("--keep", "take this one over into the new sheet; repeatable"),
    ):
        group.add_argument(option, type=int, action="append", default=[], metavar="N", help=about)
    group.add_argument("--alike", type=float, default=0.7, metavar="X", help="how much more, 0 to 0.95")
    group.add_argument("--unlike", type=float, default=0.4, metavar="X", help="how much less, 0 to 0.95")
    group.add_argument("--save", type=int, metavar="N", help="add this one to the library, and make no sheet")
    group.add_argument(
        "--name", type=name_argument, metavar="NAME", help="name of the saved person; by default the suggested one"
    )


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command; returns the exit code."""
    if arguments.save is not None:
        return _save(arguments, console)
    if arguments.name is not None:
        raise UsageError("--name is the name of the person of --save: give the person's number with --save.")
    if arguments.model is None:
        raise UsageError("Give --model to make a sheet, or --save to add a person of the last one to the library.")
    return _make_sheet(arguments, console)


# A sheet


def _make_sheet(arguments: argparse.Namespace, console: Console) -> int:
    from celeb_basis.evaluation.contact_sheet import write_sheet
    from celeb_basis.evaluation.invented_sheet import faces_in, faces_sentence, invented_sheet, thumbnail
    from celeb_basis.identities.identity import save_identity

    if not 1 <= arguments.count <= MAX_PEOPLE:
        raise UsageError(f"--count must be from 1 to {MAX_PEOPLE}.")
    if arguments.components is not None and not 1 <= arguments.components <= 4096:
        raise UsageError("--components must be from 1 to 4096.")
    if "{}" not in arguments.prompt:
        raise UsageError("--prompt has no {}: put it where the person is to appear.")
    before = _sheets(arguments.output)
    number = int(before[-1].name) + 1 if before else 1
    if arguments.seed is None:
        arguments.seed = _next_seed(before)
    size = check_sampling(arguments)
    more, less, kept = (_chosen(before, numbers) for numbers in (arguments.more, arguments.less, arguments.keep))
    folder = arguments.output / f"{number:03d}"
    check_folder(folder)
    names = open_names(arguments)
    model = open_model(arguments, console)
    people = _invented(arguments, model, names, [one for _, one in more], [one for _, one in less], dict(kept))
    pictures: list[Image.Image] = []
    with console.bar(len(people), "generating", unit="image") as bar:
        for place, one in enumerate(people, 1):
            was_there = place in dict(kept) and one.metadata.thumbnail is not None
            pictures.append(_kept_picture(one) if was_there else _picture(model, one, arguments, size))
            bar.update()
    found = faces_in(pictures)
    for place, (one, picture) in enumerate(zip(people, pictures, strict=True), 1):
        whole = replace(one, metadata=replace(one.metadata, thumbnail=thumbnail(picture)))
        save_identity(whole, folder / f"{place}.safetensors")
    write_sheet(folder / SHEET_FILE, invented_sheet(people, pictures, found))
    _show(arguments, console, folder, people, found, faces_sentence(found, model.info.name))
    return 0


def _invented(
    arguments: argparse.Namespace,
    model: DiffusionModel,
    names: Any,
    more: Sequence[Identity],
    less: Sequence[Identity],
    kept: dict[int, Identity],
) -> list[Identity]:
    from celeb_basis.basis import fitting_components
    from celeb_basis.identities.invention import InventionSettings, Inventor
    from celeb_basis.identities.library import Library

    settings = InventionSettings(
        arguments.way,
        tuple(arguments.group),
        arguments.leaning,
        arguments.distance,
        arguments.alike,
        arguments.unlike,
    )
    components = arguments.components or fitting_components(model.text_encoders, TrainingSettings.components)
    bases = bases_for(model, names, components)
    inventor = Inventor(bases, model.info, names, settings)
    taken = [*Library(arguments.library).names(), *(one.name for one in kept.values())]
    people: list[Identity] = []
    for place in range(1, arguments.count + 1):
        if place in kept:
            people.append(kept[place])
            continue
        one = inventor.invent(arguments.seed + place - 1, more=more, less=less, taken=taken)
        people.append(one)
        taken.append(one.name)
    return people


def _picture(
    model: DiffusionModel, one: Identity, arguments: argparse.Namespace, size: tuple[int | None, int | None]
) -> Image.Image:
    """An image of a person; all have one seed, so that they differ by the person alone."""
    from celeb_basis.diffusion_model import GenerationRequest
    from celeb_basis.provenance import marked

    token = f"<{one.name}>"
    request = GenerationRequest(
        arguments.prompt.replace("{}", token),
        placeholder_tokens={token: one.token_vectors()},
        steps=arguments.steps,
        guidance=arguments.guidance,
        width=size[0],
        height=size[1],
    )
    return marked(next(iter(model.generate(request))), [token])


def _kept_picture(one: Identity) -> Image.Image:
    import io

    from PIL import Image

    from celeb_basis.provenance import marked

    return marked(Image.open(io.BytesIO(one.metadata.thumbnail or b"")).convert("RGB"), [f"<{one.name}>"])


def _show(
    arguments: argparse.Namespace,
    console: Console,
    folder: Path,
    people: Sequence[Identity],
    found: Sequence[bool] | None,
    sentence: str,
) -> None:
    listed = [
        {
            "number": place,
            "name": one.name,
            "file": str(folder / f"{place}.safetensors"),
            "seed": one.metadata.settings.get("seed"),
            "face": None if found is None else found[place - 1],
        }
        for place, one in enumerate(people, 1)
    ]
    console.result({"sheet": str(folder / SHEET_FILE), "people": listed, "faces": sentence})
    console.say(str(folder / SHEET_FILE))
    for one in listed:
        console.say(f"  {one['number']}  {one['name']}" + ("  (no face found)" if one["face"] is False else ""))
    if sentence:
        console.say(sentence)
    command = command_line(["celeb-basis", "invent", "--output", str(arguments.output), "--save"])
    console.say(f"Save one with: {command} NUMBER")


# Sheets that were made before


def _sheets(folder: Path) -> list[Path]:
    """The folders of the sheets below ``folder``, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(
        (one for one in folder.iterdir() if re.fullmatch(r"\d{3,9}", one.name)), key=lambda one: int(one.name)
    )


def _next_seed(sheets: Sequence[Path]) -> int:
    """The seed after those of the last sheet, so that the next one has other people."""
    from celeb_basis.identities.identity import load_identity
    from celeb_basis.identities.invention import MAX_SEED

    files = sheets[-1].glob("*.safetensors") if sheets else ()
    seeds = [load_identity(path).metadata.settings.get("seed") for path in files]
    following = max((seed for seed in seeds if isinstance(seed, int)), default=-1) + 1
    return following if following + MAX_PEOPLE <= MAX_SEED else 0


def _chosen(sheets: Sequence[Path], numbers: Sequence[int]) -> list[tuple[int, Identity]]:
    """People of the last sheet, by their numbers.

    Raises:
        UsageError: There is no sheet, or nobody of that number on it.
    """
    from celeb_basis.identities.identity import load_identity

    if not numbers:
        return []
    if not sheets:
        raise UsageError(
            "There is no sheet in that folder yet: make one first, without --more, --less, --keep and --save."
        )
    found = []
    for number in dict.fromkeys(numbers):
        path = sheets[-1] / f"{number}.safetensors"
        if not path.is_file():
            raise UsageError(f"There is no number {number} on the sheet {sheets[-1] / SHEET_FILE}: look at it again.")
        found.append((number, load_identity(path)))
    return found


def _save(arguments: argparse.Namespace, console: Console) -> int:
    """Add a person of the last sheet to the library."""
    from celeb_basis.identities.generated_files import GeneratedFiles

    begun = time.time()
    sheets = _sheets(arguments.output)
    ((_, one),) = _chosen(sheets, [arguments.save])
    library = open_library(arguments.library)
    name = arguments.name or one.name
    check_name_is_free(library, name, replace=arguments.replace)
    path = library.add(replace(one, name=name.strip()), replace=arguments.replace, begun=begun)
    files = [sheets[-1] / f"{arguments.save}.safetensors"]
    GeneratedFiles(library.folder).note(files, "identity", [name.strip()], begun=begun)
    console.result({"name": name.strip(), "word": f"<{name.strip()}>", "file": str(path)})
    console.say(f"{name.strip()}: {path}")
    console.say(f"Write <{name.strip()}> in prompts.")
    return 0
