"""``info``: what a file is, and what it says about itself."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeb_basis.cli.options import Commands, add_command, add_library, add_model, add_names
from celeb_basis.cli.progress import Console
from celeb_basis.errors import CelebBasisError, IdentityError, LearningError

if TYPE_CHECKING:
    from celeb_basis.hosts.base import Host
    from celeb_basis.identities.identity import Identity

_ABOUT = """\
Tell what is known of an identity, a learning state that was kept, or a model. Without a name, list the library. With
--model, an identity's nearest celebrities and its distance to the mean face are told too.

examples:
  celeb-basis info
  celeb-basis info ada
  celeb-basis info ada.safetensors --model /models/sd15
  celeb-basis info /models/sd15"""


def add_parser(commands: Commands) -> None:
    """Add ``info`` to the commands."""
    parser = add_command(commands, "info", "tell what a file or the library holds", _ABOUT)
    parser.set_defaults(run=run)
    parser.add_argument("what", nargs="?", metavar="NAME|FILE|FOLDER", help="an identity, a learning state or a model")
    add_library(parser)
    add_model(parser, required=False, why="; tells the nearest celebrities")
    add_names(parser)


def run(arguments: argparse.Namespace, screen: Console) -> int:
    """Do it; answers the exit code."""
    facts = _list(arguments) if arguments.what is None else _about(arguments, screen)
    screen.result(facts)
    _tell(facts, screen)
    return 0


def _list(arguments: argparse.Namespace) -> dict[str, Any]:
    from celeb_basis.identities.library import Library

    people = [
        {"name": entry.name, "file": str(entry.path), "problem": entry.problem, **_short(entry.identity)}
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
    from celeb_basis.cli.loading import find_identity

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
    from celeb_basis.learning.state import state_people, state_settings

    try:
        return {
            "kind": "learning state",
            "file": str(path),
            "people": list(state_people(path)),
            "settings": state_settings(path).as_dict(),
        }
    except LearningError:
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
    from celeb_basis.cli.loading import bases_for, fitted_identity, open_model, open_names
    from celeb_basis.identities.expand import check_bases, tensors_of
    from celeb_basis.learning.progress import distance_to_mean, nearest_names

    names = open_names(arguments)
    host = open_model(arguments, screen)
    identity = fitted_identity(identity, host, arguments, screen)
    bases = bases_for(host, names, int(identity.coefficients[0].shape[1]))
    check_bases(identity, bases, host.info)
    coefficients = tensors_of(identity.coefficients)
    return {
        "distance": distance_to_mean(bases, coefficients),
        "nearest": [list(pair) for pair in nearest_names(bases, coefficients, 10)],
    }


def _model(path: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    from celeb_basis.cli.loading import load_model

    host: Host = load_model(path, arguments.device, arguments.dtype)
    encoders = {
        encoder.name: {"width": encoder.width, "tokens": int(encoder.token_table().shape[0])}
        for encoder in host.text_encoders
    }
    return {
        "kind": "model",
        "path": os.fspath(path),
        **asdict(host.info),
        "prediction": host.schedule.prediction,
        "timesteps": host.schedule.timesteps,
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
