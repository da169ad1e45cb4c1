"""``info``: what a file is, and what it says about itself."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeb_basis.cli.common import Commands, UsageError, add_command, add_library, add_model, add_names, add_replace
from celeb_basis.cli.progress import Console
from celeb_basis.errors import CelebBasisError, IdentityError, TrainingError

if TYPE_CHECKING:
    from celeb_basis.diffusion_model import DiffusionModel
    from celeb_basis.identities.identity import Identity


_ABOUT = """\
Tell what is known of an identity, a learning state that was kept, or a model. Without a name, list the library. With
--model, an identity's nearest celebrities and its distance to the mean face are told too.

examples:
  celeb-basis info
  celeb-basis info ada
  celeb-basis info ada.safetensors --model /models/sd15
  celeb-basis info /models/sd15"""


def add_info_parser(commands: Commands) -> None:
    """Add ``info`` to the commands."""
    parser = add_command(commands, "info", "tell what a file or the library holds", _ABOUT)
    parser.set_defaults(run=run_info)
    parser.add_argument("what", nargs="?", metavar="NAME|FILE|FOLDER", help="an identity, a learning state or a model")
    add_library(parser)
    add_model(parser, required=False, why="; tells the nearest celebrities")
    add_names(parser)


def run_info(arguments: argparse.Namespace, screen: Console) -> int:
    """Do it; answers the exit code."""
    facts = _list(arguments) if arguments.what is None else _about(arguments, screen)
    screen.result(facts)
    _tell(facts, screen)
    return 0


def _list(arguments: argparse.Namespace) -> dict[str, Any]:
    from celeb_basis.identities.library import Library

    people = [
        {"name": entry.name, "file": str(entry.path), "problem": entry.problem or None, **_short(entry.identity)}
        for entry in Library(arguments.library).entries()
    ]
    return {"kind": "library", "folder": str(arguments.library), "people": people}


def _short(identity: Identity | None) -> dict[str, Any]:
    if identity is None:
        return {}
    metadata = identity.metadata
    return {
        "model": metadata.base_model,
        "family": metadata.family,
        "steps": metadata.steps,
        "created": metadata.created,
    }


def _about(arguments: argparse.Namespace, screen: Console) -> dict[str, Any]:
    from celeb_basis.cli.common import find_identity

    path = Path(arguments.what).expanduser()
    if os.path.isdir(path):
        return _model(path, arguments)
    try:
        identity = find_identity(arguments.what, arguments.library)
    except IdentityError as error:
        if not path.is_file():
            raise
        return _state_or_model(path, arguments, error)
    return _identity(identity, arguments, screen)


def _state_or_model(path: Path, arguments: argparse.Namespace, not_an_identity: CelebBasisError) -> dict[str, Any]:
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
        return _model(path, arguments)
    except CelebBasisError:
        raise not_an_identity from None


def _identity(identity: Identity, arguments: argparse.Namespace, screen: Console) -> dict[str, Any]:
    described = asdict(identity.metadata)
    thumbnail = described.pop("thumbnail")
    shapes = zip(identity.encoders, identity.coefficients, identity.vectors, strict=True)
    facts: dict[str, Any] = {
        "kind": "identity",
        "name": identity.name,
        "word": f"<{identity.name}>",
        "content_hash": identity.content_hash,
        "encoders": {
            encoder: {"positions": c.shape[0], "components": c.shape[1], "width": v.shape[1]}
            for encoder, c, v in shapes
        },
        "thumbnail_bytes": len(thumbnail or b""),
        **described,
    }
    if arguments.model is not None:
        facts |= _in_basis(identity, arguments, screen)
    return facts


def _in_basis(identity: Identity, arguments: argparse.Namespace, screen: Console) -> dict[str, Any]:
    from celeb_basis.cli.common import bases_for, fitted_identity, open_model, open_names
    from celeb_basis.identities.expand import check_bases, tensors_of
    from celeb_basis.training.trainer import distance_to_mean, nearest_names

    names = open_names(arguments)
    model = open_model(arguments, screen)
    identity = fitted_identity(identity, model, arguments, screen)
    bases = bases_for(model, names, int(identity.coefficients[0].shape[1]))
    check_bases(identity, bases, model.info)
    coefficients = tensors_of(identity.coefficients)
    return {
        "distance": distance_to_mean(bases, coefficients),
        "nearest": [list(pair) for pair in nearest_names(bases, coefficients, 10)],
    }


def _model(path: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    from celeb_basis.cli.common import load_model

    model: DiffusionModel = load_model(path, arguments.device, arguments.dtype)
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


def _tell(facts: dict[str, Any], screen: Console) -> None:
    if facts["kind"] == "library":
        screen.say(f"library: {facts['folder']}")
        for entry in facts["people"]:
            told = (
                entry["problem"] or f"{entry['family']}, {entry['model']}, {entry['steps']} steps, {entry['created']}"
            )
            screen.say(f"  {entry['name']}: {told}")
        if not facts["people"]:
            screen.say("  nobody yet: learn somebody first")
        return
    for key, value in facts.items():
        if isinstance(value, dict):
            screen.say(f"{key}:")
            for name, inner in value.items():
                screen.say(f"  {name}: {_plain(inner)}")
        elif value not in ("", [], (), None):
            screen.say(f"{key}: {_plain(value)}")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {inner}" for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(
            f"{one[0]} {one[1]:.2f}" if isinstance(one, list) and len(one) == 2 else str(one) for one in value
        )
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# FOLDED: ``blend``: people mixed, or moved toward the mean or a celebrity.

_ABOUT_BLEND = """\
Mix identities by plain arithmetic on their coefficients, and move the mixture toward the mean face or toward a celebrity of
the basis. Weights are divided by their sum. One identity alone may be moved, too. The parts stay as they are.

examples:
  celeb-basis blend ada=0.7 bob=0.3 --as child --model /models/sd15
  celeb-basis blend ada --toward-mean 0.2 --as ada-softer --model /models/sd15
  celeb-basis blend ada --toward-celebrity "Marie Curie=0.3" --as ada-curie --model /models/sd15"""


def add_blend_parser(commands: Commands) -> None:
    """Add ``blend`` to the commands."""
    parser = add_command(commands, "blend", "mix identities", _ABOUT_BLEND)
    parser.set_defaults(run=run_blend)
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


def run_blend(arguments: argparse.Namespace, screen: Console) -> int:
    """Do it; answers the exit code."""
    from celeb_basis.cli.common import (
        bases_for,
        check_name_is_free,
        find_identity,
        fitted_identity,
        open_library,
        open_model,
        open_names,
    )
    from celeb_basis.identities.blending import blend, toward_celebrity, toward_mean
    from celeb_basis.training.trainer import distance_to_mean, nearest_names

    weighted = [_weighted(text) for text in arguments.parts]
    celebrity = None if arguments.toward_celebrity is None else _weighted(arguments.toward_celebrity)
    library = open_library(arguments.library)
    check_name_is_free(library, arguments.name, replace=arguments.replace)
    people = [(find_identity(text, arguments.library), weight) for text, weight in weighted]
    names = open_names(arguments)
    model = open_model(arguments, screen)
    bases = bases_for(model, names, int(people[0][0].coefficients[0].shape[1]))
    people = [(fitted_identity(identity, model, arguments, screen), weight) for identity, weight in people]
    mixed = blend(people, bases, model.info, name=arguments.name, keep_radius=arguments.keep_radius)
    if arguments.toward_mean is not None:
        mixed = toward_mean(mixed, arguments.toward_mean, bases, model.info)
    if celebrity is not None:
        mixed = toward_celebrity(mixed, *celebrity, bases, model.info, keep_radius=arguments.keep_radius)
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


# FOLDED: ``delete``: a person with everything that was derived from them.

_ABOUT_DELETE = """\
Delete a person with everything that was derived from them: the identity, card pictures beside it, interrupted runs, and the
pictures, reports, exports and evaluations that this program wrote about them anywhere. Mixtures of the person go too. What
will be deleted is listed and asked for first. A file that was changed since stays, and is named. What other programs made
of an export, copies, and your photos are yours to delete.

examples:
  celeb-basis delete ada --dry-run
  celeb-basis delete ada
  celeb-basis delete ada --yes --keep-mixtures"""


def add_delete_parser(commands: Commands) -> None:
    """Add ``delete`` to the commands."""
    parser = add_command(commands, "delete", "delete a person with everything derived", _ABOUT_DELETE)
    parser.set_defaults(run=run_delete)
    parser.add_argument("name", metavar="NAME", help="of the library")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be deleted")
    parser.add_argument("--keep-mixtures", action="store_true", help="keep people who were blended of this one")
    add_library(parser)


def run_delete(arguments: argparse.Namespace, screen: Console) -> int:
    """Do it; answers the exit code."""
    from celeb_basis.cli.run_results import unfinished_runs
    from celeb_basis.errors import IdentityError
    from celeb_basis.identities.deletion import delete_person, traces_of
    from celeb_basis.identities.library import Library

    library = Library(arguments.library)
    # Interrupted runs of this command line lie in the cache, those of the WebUI beside its library.
    unfinished = (unfinished_runs(), library.folder.absolute().parent / "unfinished")
    mixtures = not arguments.keep_mixtures
    traces = traces_of(library, arguments.name, unfinished, mixtures=mixtures)
    if not traces:
        known = ", ".join(library.names()[:20]) or "nobody yet"
        raise IdentityError(f"There is nothing of {traces.name!r} in {library.folder}: it holds {known}.")
    if arguments.dry_run:
        screen.result(traces.as_dict())
    if arguments.dry_run or not arguments.yes:
        tell = screen.say if arguments.dry_run else screen.note
        tell(traces.sentence())
        for path in (*traces.identities, *traces.beside, *traces.states, *(file.path for file in traces.files)):
            tell(f"  {path}")
    if arguments.dry_run:
        return 0
    if not arguments.yes and not _asked(screen, traces.name):
        screen.note("Nothing was deleted.")
        return 0
    deleted = delete_person(library, arguments.name, unfinished, mixtures=mixtures)
    screen.result(deleted.as_dict())
    screen.say(deleted.sentence())
    return 1 if deleted.left else 0


def _asked(screen: Console, name: str) -> bool:
    agreed = screen.confirm(f"Delete {name} and all of this for good?")
    if agreed is None:
        raise UsageError("Deleting is for good, and nobody is here to be asked: add --yes, or --dry-run to look first.")
    return agreed


def add_parser(commands: Commands) -> None:
    """Add ``blend``, ``info`` and ``delete`` to the commands."""
    add_blend_parser(commands)
    add_info_parser(commands)
    add_delete_parser(commands)
