"""``export`` and ``import``: identities as other tools' files, and other tools' files as identities."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from celeb_basis.cli.common import Commands, UsageError, add_command, add_library, add_model, add_names, add_replace
from celeb_basis.cli.progress import Console
from celeb_basis.errors import ExportError, IdentityError
from celeb_basis.exports.textual_inversion import LAYOUTS

if TYPE_CHECKING:
    from celeb_basis.identities.identity import Identity

_ABOUT_EXPORT = """\
Write an identity as an ordinary textual inversion file, which needs nothing of this project to be used. A file of that
name is replaced.

examples:
  celeb-basis export ada --layout webui --output /webui/embeddings
  celeb-basis export ada --layout webui --output ada.pt
  celeb-basis export ada.safetensors --layout diffusers --output ada-word.safetensors --word "<ada>"
  celeb-basis export ada --layout comfyui --output /comfyui/models/embeddings"""

_ABOUT_IMPORT = """\
Take a file into the library: an identity file of this project, a textual inversion of any tool (.safetensors, .pt, .bin),
or a coefficient file of the Celeb Basis authors (embeddings_gs-STEP.pt, id_coefficient_NNN.pt). The last two need the
model they are for: a textual inversion is projected onto its celeb basis; the authors' coefficients are numbers in the
authors' own basis, which your copy of their list of names gives (or the celeb_basis.pt that was extracted with them).
Nothing in a file is ever run.

examples:
  celeb-basis import from-a-friend.safetensors --as ada
  celeb-basis import embedding.pt --as ada --model /models/sd15
  celeb-basis import embeddings_gs-799.pt --as ada --model /models/sd14.safetensors --names wiki_names_v2.txt
  celeb-basis import id_coefficient_000.pt --as ada --model /models/sd14.safetensors --authors-basis celeb_basis.pt"""


def add_parser(commands: Commands) -> None:
    """Add ``export`` and ``import`` to the commands."""
    parser = add_command(commands, "export", "write an identity as another tool's embedding", _ABOUT_EXPORT)
    parser.set_defaults(run=run_export)
    parser.add_argument("identity", metavar="NAME|FILE", help="of the library, or a file")
    parser.add_argument("--layout", choices=tuple(LAYOUTS), default="webui", help="the tool it is for")
    parser.add_argument("--output", type=Path, required=True, metavar="PATH", help="a file, or a folder that exists")
    parser.add_argument("--word", help="the word in prompts of diffusers; <NAME> if left out")
    add_library(parser)

    parser = add_command(commands, "import", "take another tool's file into the library", _ABOUT_IMPORT)
    parser.set_defaults(run=run_import)
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--as", dest="name", metavar="NAME", help="its name here; its own if left out")
    add_library(parser)
    add_replace(parser)
    add_model(parser, required=False, why="; needed for other tools' files")
    add_names(parser)
    parser.add_argument("--components", type=int, default=512, metavar="K", help="components of the basis")
    parser.add_argument("--authors-basis", type=Path, metavar="FILE", help="the authors' celeb_basis.pt of that file")


def run_export(arguments: argparse.Namespace, screen: Console) -> int:
    """Do it; answers the exit code."""
    from celeb_basis.cli.common import check_folder, check_output_file, find_identity
    from celeb_basis.exports.textual_inversion import export_identity, usage
    from celeb_basis.identities.deletion import GeneratedFiles

    output: Path = arguments.output
    if os.path.isdir(output):
        check_folder(output)
    else:
        check_output_file(output)
    identity = find_identity(arguments.identity, arguments.library)
    files = export_identity(identity, output, arguments.layout, word=arguments.word)
    GeneratedFiles(arguments.library).note(files, "export", [identity.name])
    hint = usage(identity, files[0], arguments.layout, word=arguments.word)
    screen.result({"files": [str(path) for path in files], "layout": arguments.layout, "usage": hint})
    for path in files:
        screen.say(str(path))
    screen.note(f"To use it: {hint}")
    return 0


def run_import(arguments: argparse.Namespace, screen: Console) -> int:
    """Do it; answers the exit code."""
    from celeb_basis.cli.common import check_name_is_free, open_library
    from celeb_basis.files import explained_os_errors

    path: Path = arguments.file
    with explained_os_errors(path, "read"), open(path, "rb"):
        pass
    library = open_library(arguments.library)
    if arguments.name is not None:
        check_name_is_free(library, arguments.name, replace=arguments.replace)
    identities = _read(path, arguments, screen)
    for identity in identities:  # all of them, before the first is written
        check_name_is_free(library, identity.name, replace=arguments.replace)
    files = [library.add(identity, replace=arguments.replace) for identity in identities]
    screen.result({"identities": [{"name": i.name, "file": str(p)} for i, p in zip(identities, files, strict=True)]})
    for identity, file in zip(identities, files, strict=True):
        screen.say(f"{identity.name}: {file}")
        if identity.metadata.notes:
            screen.note(identity.metadata.notes)
    return 0


def _read(path: Path, arguments: argparse.Namespace, screen: Console) -> tuple[Identity, ...]:
    """The people of ``path``, whatever kind of file it is."""
    from celeb_basis.identities.identity import load_identity

    not_ours: Exception | None = None
    if path.suffix.lower() == ".safetensors":
        try:
            identity = load_identity(path)
            return (replace(identity, name=arguments.name or identity.name),)
        except IdentityError as error:
            not_ours = error
    if arguments.model is None:
        if not_ours is not None:
            raise not_ours
        raise UsageError("Another tool's file needs --model: the checkpoint that it was made for.")
    return _read_foreign(path, arguments, screen)


def _read_foreign(path: Path, arguments: argparse.Namespace, screen: Console) -> tuple[Identity, ...]:
    from celeb_basis.basis import fitting_components
    from celeb_basis.cli.common import bases_for, open_model, open_names
    from celeb_basis.exports.celebbasis_repo import read_celebbasis_file
    from celeb_basis.exports.textual_inversion import identity_from_embedding, import_embedding

    embedding = None
    if arguments.authors_basis is None:
        try:
            embedding = import_embedding(path)
        except ExportError as error:
            if path.suffix.lower() == ".safetensors":
                raise
            try:
                read_celebbasis_file(path)
            except ExportError as other:
                raise ExportError(f"{error} As a file of the authors: {other}") from other
    if embedding is None:
        return _read_authors(path, arguments, screen)
    names = open_names(arguments)
    model = open_model(arguments, screen)
    bases = bases_for(model, names, fitting_components(model.text_encoders, arguments.components))
    return (identity_from_embedding(embedding, bases, model.info, name=arguments.name),)


def _read_authors(path: Path, arguments: argparse.Namespace, screen: Console) -> tuple[Identity, ...]:
    from celeb_basis.cli.common import open_model
    from celeb_basis.exports.celebbasis_repo import (
        WITHOUT_A_BASIS,
        import_celebbasis_file,
        read_celebbasis_basis,
        read_celebbasis_file,
        rebuild_celebbasis_basis,
    )
    from celeb_basis.names.lists import read_names

    if arguments.authors_basis is not None:
        basis = read_celebbasis_basis(arguments.authors_basis)
        model = open_model(arguments, screen)
    elif arguments.names is not None:
        names, components = read_names(arguments.names), read_celebbasis_file(path).components
        model = open_model(arguments, screen)
        basis = rebuild_celebbasis_basis(model.text_encoders[0], names, components)
    else:
        raise ExportError(WITHOUT_A_BASIS.format(file=path.name) + " The options are --names and --authors-basis.")
    return import_celebbasis_file(path, basis, model.info, name=arguments.name)
