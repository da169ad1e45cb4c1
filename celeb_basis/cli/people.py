"""``info``, ``blend`` and ``delete``: commands on people of the library."""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeb_basis.cli.arguments import PICTURES, RAW_PICTURES, name_argument, other_file, path_text
from celeb_basis.cli.common import (
    Commands,
    UsageError,
    add_command,
    add_library,
    add_model,
    add_names,
    add_replace,
    bases_for,
    check_name_is_free,
    find_identity,
    fitted_identity,
    load_model,
    named_cosines,
    open_library,
    open_model,
    open_names,
)
from celeb_basis.cli.progress import Console
from celeb_basis.errors import CelebBasisError, IdentityError, TrainingError
from celeb_basis.files import expanded

if TYPE_CHECKING:
    from celeb_basis.identities.identity import Identity
    from celeb_basis.identities.steering import Steering


def add_parser(commands: Commands) -> None:
    """Add ``blend``, ``info`` and ``delete`` to the commands."""
    _add_blend(commands)
    _add_info(commands)
    _add_delete(commands)


# blend

_BLEND = """\
Blend identities by arithmetic on their coefficients, and move the result toward the mean face or toward a celebrity of the
basis. Weights are divided by their sum. A single identity can be moved, too. The identities themselves do not change.
--toward, --away and --group steer the result at the distance to the mean that it has: strengths of 0 to 1 are in units of the
celebrities' own spread, and several add up. At 1, the result is as much the celebrity as itself.

examples:
  celeb-basis blend ada=0.7 bob=0.3 --as child --model /models/sd15
  celeb-basis blend ada --toward-mean 0.2 --as ada-softer --model /models/sd15
  celeb-basis blend ada --toward-celebrity "Marie Curie=0.3" --as ada-curie --model /models/sd15
  celeb-basis blend ada --toward "Marie Curie=0.3" --away "Tom Hanks=0.3" --group women=0.4 --as eve --model /models/sd15"""


def _add_blend(commands: Commands) -> None:
    parser = add_command(commands, "blend", "blend identities", _BLEND)
    parser.set_defaults(run=blend)
    parser.add_argument(
        "parts", nargs="+", metavar="NAME[=WEIGHT]", help="people of the library, or files; the default weight is 1"
    )
    parser.add_argument(
        "--as", "--name", dest="name", type=name_argument, required=True, metavar="NEW", help="name of the new identity"
    )
    parser.add_argument(
        "--toward-mean", type=float, metavar="X", help="move toward the mean face: 0 not at all, 1 all the way"
    )
    parser.add_argument(
        "--toward-celebrity", metavar="NAME=X", help="move toward a celebrity: 0 not at all, 1 all the way"
    )
    parser.add_argument(
        "--keep-radius",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep the parts' distance from the mean, which is the default; plain blends look more average",
    )
    _add_steering(parser)
    add_library(parser)
    add_replace(parser)
    add_model(parser)
    add_names(parser)


def _add_steering(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("steering")
    for option, about in (
        ("--toward", "more like a celebrity of the basis; repeatable"),
        ("--away", "away from a celebrity of the basis; repeatable"),
        (
            "--group",
            "toward a group of the list of names, such as women, or away from it with a strength below 0; repeatable",
        ),
    ):
        group.add_argument(option, action="append", default=[], metavar="NAME=X", help=about)


def blend(arguments: argparse.Namespace, console: Console) -> int:
    """Run ``blend``; returns the exit code."""
    from celeb_basis.identities import blending
    from celeb_basis.identities.expand import tensors_of
    from celeb_basis.identities.steering import steer
    from celeb_basis.training.tracking import distance_to_mean, nearest_names

    begun = time.time()
    weights = [_weighted(text) for text in arguments.parts]
    steering = _steering(arguments)
    celebrity = None if arguments.toward_celebrity is None else _weighted(arguments.toward_celebrity)
    library = open_library(arguments.library)
    check_name_is_free(library, arguments.name, replace=arguments.replace)
    parts = [(find_identity(text, arguments.library), weight) for text, weight in weights]
    names = open_names(arguments)
    model = open_model(arguments, console)
    bases = bases_for(model, names, int(parts[0][0].coefficients[0].shape[1]))
    parts = [(fitted_identity(identity, model, arguments, console), weight) for identity, weight in parts]
    blended = blending.blend(parts, bases, model.info, name=arguments.name, keep_radius=arguments.keep_radius)
    if arguments.toward_mean is not None:
        blended = blending.toward_mean(blended, arguments.toward_mean, bases, model.info)
    if celebrity is not None:
        blended = blending.toward_celebrity(blended, *celebrity, bases, model.info, keep_radius=arguments.keep_radius)
    if steering:
        blended = steer(blended, steering, bases, model.info, names)
    path = blending.add_blend(library, blended, begun, replace=arguments.replace)

    coefficients = tensors_of(blended.coefficients)
    distance = distance_to_mean(bases, coefficients)
    nearest = nearest_names(bases, coefficients, 5)
    console.result(
        {"name": blended.name, "file": str(path), "distance": distance, "nearest": [list(pair) for pair in nearest]}
    )
    console.say(f"{blended.name}: {path}")
    console.say(f"  distance to the mean: {distance:.2f} times the celebrities' own")
    console.say(f"  nearest celebrities: {named_cosines(nearest)}")
    return 0


def _steering(arguments: argparse.Namespace) -> Steering:
    from celeb_basis.identities.steering import Steering

    for text in (*arguments.toward, *arguments.away, *arguments.group):
        if "=" not in text:
            raise UsageError(f"{text!r} has no strength: write NAME=NUMBER, such as {text}=0.3.")
    toward, groups = ([_weighted(text) for text in texts] for texts in (arguments.toward, arguments.group))
    away = [(name, -strength) for name, strength in map(_weighted, arguments.away)]
    return Steering((*toward, *away), tuple(groups))


def _weighted(text: str) -> tuple[str, float]:
    """Split ``NAME=WEIGHT``; the weight of a name alone is 1."""
    name, equals, number = text.rpartition("=")
    if not equals:
        return text, 1.0
    try:
        return name, float(number)
    except ValueError:
        raise UsageError(f"{text!r} is not understood: write NAME=NUMBER, such as {name}=0.5.") from None


# info

_INFO = """\
Show what is known about an identity, a saved training run or a model. Without an argument, list the library. With --model,
show also which celebrities an identity is nearest to and how far it is from the mean face.

examples:
  celeb-basis info
  celeb-basis info ada
  celeb-basis info ada.safetensors --model /models/sd15
  celeb-basis info /models/sd15"""


def _add_info(commands: Commands) -> None:
    parser = add_command(commands, "info", "show what a file or the library holds", _INFO)
    parser.set_defaults(run=info)
    parser.add_argument(
        "what",
        nargs="?",
        type=path_text,
        metavar="NAME|FILE|FOLDER",
        help="an identity, a saved training run or a model",
    )
    add_library(parser)
    add_model(parser, required=False, why="; shows the nearest celebrities")
    add_names(parser)


def info(arguments: argparse.Namespace, console: Console) -> int:
    """Run ``info``; returns the exit code."""
    description = _describe_library(arguments) if arguments.what is None else _describe(arguments, console)
    console.result(description)
    if description["kind"] == "library":
        _show_library(description, console)
    else:
        _show(description, console)
    return 0


def _describe_library(arguments: argparse.Namespace) -> dict[str, Any]:
    from celeb_basis.identities.library import Library

    people = []
    for entry in Library(arguments.library).entries():
        person: dict[str, Any] = {"name": entry.name, "file": str(entry.path), "problem": entry.problem or None}
        if entry.identity is not None:
            metadata = entry.identity.metadata
            person |= {
                "model": metadata.base_model,
                "family": metadata.family,
                "steps": metadata.steps,
                "created": metadata.created,
            }
        people.append(person)
    return {"kind": "library", "folder": str(arguments.library), "people": people}


def _describe(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Describe whatever the argument is: a model's folder, an identity, a training state or a model's file."""
    path = expanded(arguments.what) if "/" in arguments.what or "\\" in arguments.what else Path(arguments.what)
    if os.path.isdir(path):
        return _describe_model(path, arguments)
    if path.suffix.lower() in PICTURES | RAW_PICTURES and os.path.isfile(path):
        return _describe_picture(path)
    try:
        identity = find_identity(arguments.what, arguments.library)
    except IdentityError as error:
        if not path.is_file():
            raise
        return _describe_state_or_model(path, arguments, error)
    return _describe_identity(identity, arguments, console)


def _describe_picture(path: Path) -> dict[str, Any]:
    """Describe a generated image by its own parameters.

    Raises:
        IdentityError: It has none, as photos have none.
    """
    from celeb_basis.provenance import read_parameters

    if (parameters := read_parameters(path)) is None:
        raise IdentityError(other_file(path) or "")
    return {
        "kind": "generated image",
        "file": str(path),
        "prompt": parameters.prompt,
        "seed": parameters.seed,
        "people": list(parameters.words),
    }


def _describe_state_or_model(
    path: Path, arguments: argparse.Namespace, not_an_identity: CelebBasisError
) -> dict[str, Any]:
    from celeb_basis.training.state import read_summary

    try:
        saved = read_summary(path)
        return {
            "kind": "learning state",
            "file": str(path),
            "people": list(saved.names),
            "settings": saved.settings.as_dict(),
        }
    except TrainingError:
        pass
    try:
        return _describe_model(path, arguments)
    except CelebBasisError:
        raise not_an_identity from None


def _describe_identity(identity: Identity, arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    metadata = asdict(identity.metadata)
    thumbnail = metadata.pop("thumbnail")
    shapes = zip(identity.encoders, identity.coefficients, identity.vectors, strict=True)
    description: dict[str, Any] = {
        "kind": "identity",
        "name": identity.name,
        "word": f"<{identity.name}>",
        "content_hash": identity.content_hash,
        "encoders": {
            encoder: {"positions": c.shape[0], "components": c.shape[1], "width": v.shape[1]}
            for encoder, c, v in shapes
        },
        "thumbnail_bytes": len(thumbnail or b""),
        **metadata,
    }
    if arguments.model is not None:
        description |= _place_in_basis(identity, arguments, console)
    return description


def _place_in_basis(identity: Identity, arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    from celeb_basis.identities.expand import check_bases, tensors_of
    from celeb_basis.training.tracking import distance_to_mean, nearest_names

    names = open_names(arguments)
    model = open_model(arguments, console)
    identity = fitted_identity(identity, model, arguments, console)
    bases = bases_for(model, names, int(identity.coefficients[0].shape[1]))
    check_bases(identity, bases, model.info)
    coefficients = tensors_of(identity.coefficients)
    return {
        "distance": distance_to_mean(bases, coefficients),
        "nearest": [list(pair) for pair in nearest_names(bases, coefficients, 10)],
    }


def _describe_model(path: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    model = load_model(path, arguments.device, arguments.dtype)
    encoders = {
        encoder.name: {"width": encoder.width, "tokens": int(encoder.token_table().shape[0])}
        for encoder in model.text_encoders
    }
    return {
        "kind": "model",
        "path": os.fspath(path),
        **asdict(model.info),
        "prediction": model.schedule.prediction,
        "timesteps": model.schedule.timesteps,
        "encoders": encoders,
    }


def _show_library(description: dict[str, Any], console: Console) -> None:
    console.say(f"library: {description['folder']}")
    for person in description["people"]:
        status = (
            person["problem"] or f"{person['family']}, {person['model']}, {person['steps']} steps, {person['created']}"
        )
        console.say(f"  {person['name']}: {status}")
    if not description["people"]:
        console.say("  nobody yet: learn a person first")


def _show(description: dict[str, Any], console: Console) -> None:
    for key, value in description.items():
        if isinstance(value, dict):
            console.say(f"{key}:")
            for name, inner in value.items():
                console.say(f"  {name}: {_as_text(inner)}")
        elif value not in ("", [], (), None):
            console.say(f"{key}: {_as_text(value)}")


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {inner}" for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(
            f"{one[0]} {one[1]:.2f}" if isinstance(one, list) and len(one) == 2 else str(one) for one in value
        )
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# delete

_DELETE = """\
Delete a person with everything that was made from them: the identity, its card pictures, interrupted runs, and the images,
reports, exports and evaluations that this program wrote anywhere. Blends that the person is part of are deleted, too.
Everything is listed first, and you are asked. A file that was changed since it was written is kept and listed. What other
programs made from an export, copies of files, and your photos are yours to delete.

examples:
  celeb-basis delete ada --dry-run
  celeb-basis delete ada
  celeb-basis delete ada --yes --keep-mixtures"""


def _add_delete(commands: Commands) -> None:
    parser = add_command(commands, "delete", "delete a person with everything made from them", _DELETE)
    parser.set_defaults(run=delete)
    parser.add_argument("name", type=name_argument, metavar="NAME", help="a person of the library")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--dry-run", action="store_true", help="only list what would be deleted")
    parser.add_argument("--keep-mixtures", action="store_true", help="keep blends that the person is part of")
    add_library(parser)


def delete(arguments: argparse.Namespace, console: Console) -> int:
    """Run ``delete``; returns the exit code."""
    from celeb_basis.identities.deletion import delete_person, traces_of
    from celeb_basis.identities.library import Library
    from celeb_basis.training.run_lock import check_not_running
    from celeb_basis.training.state import unfinished_runs

    library = Library(arguments.library)
    # The command line saves interrupted runs in the cache, the WebUI beside its library.
    unfinished = (unfinished_runs(), library.folder.absolute().parent / "unfinished")
    mixtures = not arguments.keep_mixtures
    traces = traces_of(library, arguments.name, unfinished, mixtures=mixtures)
    if not traces:
        known = ", ".join(library.names()[:20]) or "nobody yet"
        raise IdentityError(f"There is nothing of {traces.name!r} in {library.folder}: it holds {known}.")
    if arguments.dry_run:
        console.result(traces.as_dict())
    show = console.say if arguments.dry_run else console.note
    show(traces.sentence())
    for line in traces.lines():
        show(f"  {line}")
    if arguments.dry_run:
        return 0
    if not arguments.yes and not _confirmed(console, traces.name):
        console.note("Nothing was deleted.")
        return 0
    check_not_running((*traces.states, *(file.path for file in traces.files)), traces.name)
    deleted = delete_person(library, arguments.name, unfinished, mixtures=mixtures)
    console.result(deleted.as_dict())
    console.say(deleted.sentence())
    return 1 if deleted.left else 0


def _confirmed(console: Console, name: str) -> bool:
    confirmed = console.confirm(f"Delete {name} and everything listed permanently?")
    if confirmed is None:
        raise UsageError(
            "Deleting cannot be undone, and there is no terminal to ask at: add --yes, or --dry-run to look."
        )
    return confirmed
