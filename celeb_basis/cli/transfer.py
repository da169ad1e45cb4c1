"""``export`` and ``import``: identities as other tools' files, and other tools' files as identities."""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from celeb_basis.cli.arguments import name_argument, path_argument, path_text
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
    check_output_file,
    find_identity,
    open_library,
    open_model,
    open_names,
)
from celeb_basis.cli.progress import Console
from celeb_basis.errors import ExportError, IdentityError
from celeb_basis.files import explained_os_errors, open_regular

if TYPE_CHECKING:
    from celeb_basis.identities.identity import Identity

LAYOUTS = ("webui", "diffusers", "comfyui", "invokeai")
"""Those of :data:`celeb_basis.exports.textual_inversion.LAYOUTS`, which is too slow to import for a help text."""

_EXPORT = """\
Write an identity as an ordinary textual inversion file, which works without this project. An existing file of that name is
replaced.

examples:
  celeb-basis export ada --layout webui --output /webui/embeddings
  celeb-basis export ada --layout webui --output ada.pt
  celeb-basis export ada.safetensors --layout diffusers --output ada-word.safetensors --word "<ada>"
  celeb-basis export ada --layout comfyui --output /comfyui/models/embeddings"""

_IMPORT = """\
Add a file to the library: an identity file of this project, a textual inversion of any tool (.safetensors, .pt, .bin or
.png), or a coefficient file of the CelebBasis repository, the code of the paper's authors (embeddings_gs-STEP.pt,
id_coefficient_NNN.pt). The last two kinds need the model that they were made for. A textual inversion is projected onto its
celeb basis. The authors' coefficients refer to the authors' own basis, which is rebuilt from your copy of their list of
names, or read from the celeb_basis.pt that was extracted with them. No code in a file is ever run.

examples:
  celeb-basis import from-a-friend.safetensors --as ada
  celeb-basis import embedding.pt --as ada --model /models/sd15
  celeb-basis import embeddings_gs-799.pt --as ada --model /models/sd14.safetensors --names wiki_names_v2.txt
  celeb-basis import id_coefficient_000.pt --as ada --model /models/sd14.safetensors --authors-basis celeb_basis.pt"""


def add_parser(commands: Commands) -> None:
    """Add ``export`` and ``import`` to the commands."""
    parser = add_command(commands, "export", "write an identity as another tool's embedding", _EXPORT)
    parser.set_defaults(run=run_export)
    parser.add_argument("identity", metavar="NAME|FILE", help="a person of the library, or an identity file")
    parser.add_argument("--layout", choices=LAYOUTS, default="webui", help="the tool that will read the file")
    parser.add_argument(
        "--output",
        type=path_text,
        required=True,
        metavar="PATH",
        help="a file, or a folder, which is created if need be",
    )
    parser.add_argument("--word", help="placeholder token for diffusers; <NAME> by default")
    add_library(parser)

    parser = add_command(commands, "import", "add another tool's file to the library", _IMPORT)
    parser.set_defaults(run=run_import)
    parser.add_argument("file", type=path_argument, metavar="FILE")
    parser.add_argument(
        *("--as", "--name"),
        dest="name",
        type=name_argument,
        metavar="NAME",
        help="its name in the library; by default the file's own",
    )
    add_library(parser)
    add_replace(parser)
    add_model(parser, required=False, why="; needed for other tools' files")
    add_names(parser)
    parser.add_argument("--components", type=int, default=512, metavar="K", help="components of the basis")
    parser.add_argument(
        "--authors-basis",
        type=path_argument,
        metavar="FILE",
        help="the celeb_basis.pt that was extracted with the authors' file",
    )


def run_export(arguments: argparse.Namespace, console: Console) -> int:
    """Run ``export``; returns the exit code."""
    from celeb_basis.exports.textual_inversion import export_identity, usage
    from celeb_basis.identities.folder_lock import writing
    from celeb_basis.identities.generated_files import GeneratedFiles
    from celeb_basis.identities.library import Library

    begun, output = time.time(), Path(arguments.output)
    # No tool reads a file without an ending.
    into_folder = arguments.output.endswith(("/", os.sep)) or not output.suffix or os.path.isdir(output)
    if into_folder:
        check_folder(output)
    else:
        check_output_file(output)
    identity = find_identity(arguments.identity, arguments.library)
    if into_folder:
        with explained_os_errors(output, "create"):
            output.mkdir(parents=True, exist_ok=True)
    with writing(arguments.library):
        Library(arguments.library).check_not_deleted(identity.name, begun)
        files = export_identity(identity, output, arguments.layout, word=arguments.word)
        GeneratedFiles(arguments.library).note(files, "export", [identity.name], begun=begun)
    hint = usage(identity, files[0], arguments.layout, word=arguments.word)
    console.result({"files": [str(path) for path in files], "layout": arguments.layout, "usage": hint})
    for path in files:
        console.say(str(path))
    console.note(f"To use it: {hint}")
    return 0


def run_import(arguments: argparse.Namespace, console: Console) -> int:
    """Run ``import``; returns the exit code."""
    path: Path = arguments.file
    with open_regular(path):
        pass
    library = open_library(arguments.library)
    if arguments.name is not None:
        check_name_is_free(library, arguments.name, replace=arguments.replace)
    identities = _read(path, arguments, console)
    for identity in identities:  # all of them, before the first is written
        check_name_is_free(library, identity.name, replace=arguments.replace)
    files = library.add_all(identities, replace=arguments.replace)
    console.result({"identities": [{"name": i.name, "file": str(p)} for i, p in zip(identities, files, strict=True)]})
    for identity, file in zip(identities, files, strict=True):
        console.say(f"{identity.name}: {file}")
        if identity.metadata.notes:
            console.note(identity.metadata.notes)
    return 0


def _read(path: Path, arguments: argparse.Namespace, console: Console) -> tuple[Identity, ...]:
    """Read the identities in ``path``, whatever kind of file it is."""
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
        raise UsageError("The file of another tool needs --model, the checkpoint that it was made for.")
    return _read_embedding(path, arguments, console)


def _read_embedding(path: Path, arguments: argparse.Namespace, console: Console) -> tuple[Identity, ...]:
    from celeb_basis.basis import fitting_components
    from celeb_basis.exports.celebbasis_repo import read_celebbasis_file
    from celeb_basis.exports.textual_inversion import OtherKindError, identity_from_embedding, import_embedding

    embedding = None
    if arguments.authors_basis is None:
        try:
            embedding = import_embedding(path)
        except OtherKindError:
            raise
        except ExportError as error:
            if path.suffix.lower() not in (".pt", ".bin", ".pth"):
                raise
            try:
                read_celebbasis_file(path)
            except ExportError as other:
                raise ExportError(f"{error} As a file of the CelebBasis repository: {other}") from other
    if embedding is None:
        return _read_celebbasis(path, arguments, console)
    names = open_names(arguments)
    model = open_model(arguments, console)
    bases = bases_for(model, names, fitting_components(model.text_encoders, arguments.components))
    return (identity_from_embedding(embedding, bases, model.info, name=arguments.name),)


def _read_celebbasis(path: Path, arguments: argparse.Namespace, console: Console) -> tuple[Identity, ...]:
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
        model = open_model(arguments, console)
    elif arguments.names is not None:
        names, components = read_names(arguments.names), read_celebbasis_file(path).components
        model = open_model(arguments, console)
        basis = rebuild_celebbasis_basis(model.text_encoders[0], names, components)
    else:
        raise ExportError(WITHOUT_A_BASIS.format(file=path.name) + " The options are --names and --authors-basis.")
    return import_celebbasis_file(path, basis, model.info, name=arguments.name)
