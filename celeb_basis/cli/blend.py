"""``blend``: people mixed, or moved toward the mean or a celebrity."""

from __future__ import annotations

import argparse

from celeb_basis.cli.options import Commands, UsageError, add_command, add_library, add_model, add_names, add_replace
from celeb_basis.cli.progress import Console

_ABOUT = """\
Mix identities by plain arithmetic on their coefficients, and move the mixture toward the mean face or toward a celebrity of
the basis. Weights are divided by their sum. One identity alone may be moved, too. The parts stay as they are.

examples:
  celeb-basis blend ada=0.7 bob=0.3 --as child --model /models/sd15
  celeb-basis blend ada --toward-mean 0.2 --as ada-softer --model /models/sd15
  celeb-basis blend ada --toward-celebrity "Marie Curie=0.3" --as ada-curie --model /models/sd15"""


def add_parser(commands: Commands) -> None:
    """Add ``blend`` to the commands."""
    parser = add_command(commands, "blend", "mix identities", _ABOUT)
    parser.set_defaults(run=run)
    parser.add_argument(
        "parts", nargs="+", metavar="NAME[=WEIGHT]", help="of the library, or files; weight 1 if left out"
    )
    parser.add_argument("--as", dest="name", required=True, metavar="NEW", help="name of the new identity")
    parser.add_argument("--toward-mean", type=float, metavar="X", help="0 leaves it as it is, 1 is the mean face")
    parser.add_argument("--toward-celebrity", metavar="NAME=X", help="0 leaves it as it is, 1 is the celebrity")
    parser.add_argument("--keep-radius", action="store_true", help="keep the parts' distance to the mean")
    add_library(parser)
    add_replace(parser)
    add_model(parser)
    add_names(parser)


def run(arguments: argparse.Namespace, screen: Console) -> int:
    """Do it; answers the exit code."""
    from celeb_basis.cli.loading import (
        bases_for,
        check_name_is_free,
        find_identity,
        fitted_identity,
        open_library,
        open_model,
        open_names,
    )
    from celeb_basis.identities.blending import blend, toward_celebrity, toward_mean
    from celeb_basis.learning.progress import distance_to_mean, nearest_names

    weighted = [_weighted(text) for text in arguments.parts]
    celebrity = None if arguments.toward_celebrity is None else _weighted(arguments.toward_celebrity)
    library = open_library(arguments.library)
    check_name_is_free(library, arguments.name, replace=arguments.replace)
    people = [(find_identity(text, arguments.library), weight) for text, weight in weighted]
    names = open_names(arguments)
    host = open_model(arguments, screen)
    bases = bases_for(host, names, int(people[0][0].coefficients[0].shape[1]))
    people = [(fitted_identity(identity, host, arguments, screen), weight) for identity, weight in people]
    mixed = blend(people, bases, host.info, name=arguments.name, keep_radius=arguments.keep_radius)
    if arguments.toward_mean is not None:
        mixed = toward_mean(mixed, arguments.toward_mean, bases, host.info)
    if celebrity is not None:
        mixed = toward_celebrity(mixed, *celebrity, bases, host.info, keep_radius=arguments.keep_radius)
    path = library.add(mixed, replace=arguments.replace)

    import torch

    coefficients = [torch.from_numpy(array.copy()) for array in mixed.coefficients]
    distance = distance_to_mean(bases, coefficients)
    nearest = nearest_names(bases, coefficients, 5)
    screen.result(
        {"name": mixed.name, "file": str(path), "distance": distance, "nearest": [list(pair) for pair in nearest]}
    )
    screen.say(f"{mixed.name}: {path}")
    screen.say(f"  distance to the mean: {distance:.2f} of the celebrities' own")
    screen.say(f"  nearest: {', '.join(f'{name} {cosine:.2f}' for name, cosine in nearest)}")
    return 0


def _weighted(text: str) -> tuple[str, float]:
    """``NAME=WEIGHT``; a name alone weighs 1."""
    name, equals, number = text.rpartition("=")
    if not equals:
        return text, 1.0
    try:
        return name, float(number)
    except ValueError:
        raise UsageError(f"{text!r} is not understood: write NAME=NUMBER, such as {name}=0.5.") from None
