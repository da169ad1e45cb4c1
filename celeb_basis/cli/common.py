"""What the commands share: parsers and their options, and opening the models, faces, names and identities that they name."""

from __future__ import annotations

import argparse
import os
import stat
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, get_args, get_type_hints

from celeb_basis.cli.arguments import default_library, is_text, name_argument, other_file, path_argument
from celeb_basis.cli.progress import Console
from celeb_basis.errors import FacePackError, FileError, IdentityError
from celeb_basis.files import bases_cache, check_writable, checked_name, expanded, explained_os_errors
from celeb_basis.miniature import MODEL
from celeb_basis.miniature import NAME as MINIATURE
from celeb_basis.prompts.syntax import check_new_name
from celeb_basis.settings import AUTO, PRESET_NAMES, TrainingSettings, preset

if TYPE_CHECKING:
    from celeb_basis.diffusion_model import DiffusionModel
    from celeb_basis.faces.insight import InsightFaceNetwork
    from celeb_basis.faces.packs import FacePack
    from celeb_basis.identities.identity import Identity
    from celeb_basis.identities.library import Library
    from celeb_basis.method import Basis
    from celeb_basis.names.lists import NameList

Commands: TypeAlias = "argparse._SubParsersAction[CommandParser]"

_SETTING = "setting_"


class UsageError(Exception):
    """The command line cannot be understood. The text is a full sentence."""


# Parsers and the options that several commands have


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps paragraphs as they are written, and appends defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        silent = (None, argparse.SUPPRESS, False, "")
        if "%(default)" in text or action.default in silent or action.default == [] or not action.option_strings:
            return text
        return text + " (default: %(default)s)"


class CommandParser(argparse.ArgumentParser):
    """A parser that raises :class:`UsageError` where argparse would print its usage and exit."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", _HelpFormatter)
        options.setdefault("allow_abbrev", False)
        super().__init__(**options)

    def error(self, message: str) -> NoReturn:
        """Raise the error that argparse found."""
        raise UsageError(f"{message[:1].upper()}{message[1:]}: run '{self.prog} --help' to see the options.")


def add_command(commands: Commands, name: str, summary: str, description: str) -> CommandParser:
    """Add a command with the output options.

    Args:
        commands: The subparsers of the program.
        name: Name of the command.
        summary: Its line in the program's own help.
        description: Its description with examples, shown by its own help.
    """
    parser = commands.add_parser(name, help=summary, description=description)
    add_output_options(parser, defaults=False)
    return parser


def add_output_options(parser: argparse.ArgumentParser, *, defaults: bool) -> None:
    """Add ``--json``, ``--quiet`` and ``--verbose``, which may stand before the command or after it."""
    default: Any = False if defaults else argparse.SUPPRESS
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", default=default, help="print the result as JSON and nothing else")
    group.add_argument("-q", "--quiet", action="store_true", default=default, help="show no progress and no remarks")
    group.add_argument(
        "-v", "--verbose", action="store_true", default=default, help="show more remarks, and tracebacks of errors"
    )


def add_model(parser: argparse.ArgumentParser, *, required: bool = True, why: str = "") -> None:
    """Add ``--model``, ``--device`` and ``--dtype``."""
    group = parser.add_argument_group("model")
    text = (
        "Stable Diffusion 1.x, 2.x or XL checkpoint: a folder in diffusers' layout or a .safetensors file; "
        f"or {MINIATURE}, the small model that comes with this program"
    )
    group.add_argument("--model", type=_model_path, required=required, metavar="PATH", help=text + why)
    group.add_argument("--device", default="auto", help="device to run on: auto, cpu, cuda, cuda:1, mps")
    group.add_argument(
        "--dtype", default="auto", choices=("auto", "fp32", "bf16", "fp16"), help="data type of the weights"
    )


def _model_path(text: str) -> Path:
    path = path_argument(text)
    # A clone of the repository has a folder of this name that is no checkpoint.
    own = path.is_file() or (path / "model_index.json").is_file()
    return MODEL if text == MINIATURE and not own else path


def add_names(parser: argparse.ArgumentParser) -> None:
    """Add ``--names``."""
    parser.add_argument(
        "--names",
        type=path_argument,
        metavar="FILE",
        help="list of celebrity names, one per line, in UTF-8; without it, the list that comes with this program",
    )


def add_faces(parser: argparse._ActionsContainer) -> None:
    """Add ``--faces`` and ``--accept-licence``."""
    parser.add_argument(
        "--faces",
        metavar="PACK",
        help="face model pack: buffalo_l, antelopev2, miniature (small, comes with this program), or a folder of .onnx "
        "files; downloaded on first use (default: buffalo_l, or miniature with --model miniature)",
    )
    parser.add_argument(
        "--accept-licence",
        action="store_true",
        help="accept the license of that pack in case it has to be downloaded; otherwise you are asked",
    )


def add_library(parser: argparse._ActionsContainer) -> None:
    """Add ``--library``."""
    parser.add_argument(
        "--library",
        type=path_argument,
        default=default_library(),
        metavar="FOLDER",
        help="folder of learned people; $CELEB_BASIS_LIBRARY sets another default",
    )


def add_replace(parser: argparse.ArgumentParser) -> None:
    """Add ``--replace``."""
    parser.add_argument("--replace", action="store_true", help="replace an identity of the same name")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add an option for every field of :class:`TrainingSettings`, and ``--preset`` for all of them together."""
    group = parser.add_argument_group("training settings")
    group.add_argument(
        "--preset",
        default=AUTO,
        choices=PRESET_NAMES,
        help="recipe that the options below modify; auto: quick if the checkpoint is prepared, else balanced",
    )
    hints = get_type_hints(TrainingSettings)
    for item in fields(TrainingSettings):
        option, kind = "--" + item.name.replace("_", "-"), hints[item.name]
        about = item.metadata["help"].replace("%", "%%")
        shared: dict[str, Any] = {"dest": _SETTING + item.name, "default": argparse.SUPPRESS}
        if kind is bool:
            default = "yes" if item.default else "no"
            group.add_argument(
                option, action=argparse.BooleanOptionalAction, help=f"{about} (default: {default})", **shared
            )
            continue
        choices = get_args(kind)
        metavar = "{" + ",".join(choices) + "}" if choices else "N"
        span = "" if choices else f"; {item.metadata['low']:g} to {item.metadata['high']:g}"
        # Values stay text: TrainingSettings itself checks them, with a message that suits a page just as well.
        group.add_argument(option, metavar=metavar, help=f"{about} (default: {item.default}{span})", **shared)


def settings_changes(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings that the command line gives."""
    return {key.removeprefix(_SETTING): value for key, value in vars(arguments).items() if key.startswith(_SETTING)}


def chosen_settings(arguments: argparse.Namespace) -> TrainingSettings:
    """The preset with the command line's changes.

    Raises:
        SettingsError: A value is out of range.
    """
    return preset(arguments.preset).changed(settings_changes(arguments))


# Models and names


def open_model(arguments: argparse.Namespace, console: Console) -> DiffusionModel:
    """Load the checkpoint of ``--model``."""
    console.note(f"Loading {arguments.model} ...")
    return load_model(arguments.model, arguments.device, arguments.dtype, quiet=not console.verbose)


def load_model(path: Path, device: str, dtype: str, *, quiet: bool = True) -> DiffusionModel:
    """Load a checkpoint with diffusers."""
    from celeb_basis.hosts.diffusers import load_host

    if quiet:
        hush_libraries()
    return load_host(path, device=device, dtype=dtype, name=MINIATURE if path == MODEL else None)  # type: ignore[arg-type]


def hush_libraries() -> None:
    """Keep the progress bars and warnings of libraries off the screen; the commands show their own."""
    import warnings

    try:
        import diffusers
        import transformers
    except ImportError:  # load_host says what to install
        return
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module=r"(diffusers|transformers|torch|skimage)(\.|$)")


def open_names(arguments: argparse.Namespace) -> NameList:
    """The list of ``--names``, or else the list of the miniature model or the one for all other models."""
    from celeb_basis.miniature import shipped_model_names
    from celeb_basis.names.lists import read_names, shipped_names

    if arguments.names is not None:
        return read_names(arguments.names)
    return shipped_model_names() if getattr(arguments, "model", None) == MODEL else shipped_names()


def bases_for(model: DiffusionModel, names: NameList, components: int) -> list[Basis]:
    """The model's bases, one per text encoder, loaded from the cache if they were built before."""
    from celeb_basis.basis import BasisOptions, build_bases

    built = build_bases(model.text_encoders, names, BasisOptions(components=components), cache=bases_cache())
    return [one.basis for one in built]


# Face networks


def face_pack(arguments: argparse.Namespace) -> str:
    """The pack of ``--faces``, or else the one that suits the model: the miniature's people are its small pack's."""
    from celeb_basis.faces.packs import MINIATURE as SMALL

    chosen: str | None = arguments.faces
    if chosen is None:
        chosen = SMALL if getattr(arguments, "model", None) == MODEL else "buffalo_l"
    return chosen


def open_faces(arguments: argparse.Namespace, console: Console) -> InsightFaceNetwork:
    """Load the networks of ``--faces``."""
    from celeb_basis.faces.insight import InsightFaceNetwork

    return InsightFaceNetwork(obtain_faces(arguments, console).folder)


def obtain_faces(arguments: argparse.Namespace, console: Console) -> FacePack:
    """Find the pack of ``--faces``, or download it once its license is accepted.

    Raises:
        LicenseError: The license is not accepted.
    """
    from celeb_basis.faces.packs import find_pack, obtain_pack

    pack = face_pack(arguments)
    try:
        return find_pack(pack)
    except FacePackError:
        _ask_for_license(pack, arguments, console)
    bar: Any = None

    def progress(done: int, total: int | None) -> None:
        nonlocal bar
        if bar is None:
            bar = console.bar(total, f"downloading {pack}", unit="B", scale=True)
        bar.update(done - bar.n)

    try:
        return obtain_pack(pack, progress=progress, agreed=True)
    finally:
        if bar is not None:
            bar.close()


def _ask_for_license(pack: str, arguments: argparse.Namespace, console: Console) -> None:
    from celeb_basis.faces.packs import AGREEMENT, SOURCES, licence_to_agree_to, not_agreed

    if (source := SOURCES.get(pack)) is None:
        return
    size = source.archive_bytes / 1e6
    console.note(f"The face models {source.name} ({source.about}, {size:.0f} MB) have to be downloaded.")
    console.note(f"Their license: {source.licence} See {source.terms}.")
    if arguments.accept_licence or licence_to_agree_to(pack) is None:
        return
    if not console.confirm("Do you agree to this license?"):
        raise not_agreed(source, f"add --accept-licence, or set {AGREEMENT}={source.name}")


# Identities


def open_library(folder: Path) -> Library:
    """The library in ``folder``, which may not exist yet.

    Raises:
        FileError: Identities can be neither read nor written there.
    """
    from celeb_basis.identities.library import Library

    check_folder(folder)
    return Library(folder)


def check_name_is_free(library: Library, name: str, *, replace: bool, resumed: bool = False) -> None:
    """Check that a new identity may be called ``name``.

    Args:
        library: The library that it goes to.
        name: Its name.
        replace: Whether an identity of the same name is replaced.
        resumed: Whether its run has begun already, and keeps its name.

    Raises:
        IdentityError: The name is not usable, or it is taken and must not be replaced.
    """
    name = checked_name(name)
    if library.path_of(name).exists():
        if not replace:
            raise IdentityError(
                f"There is already an identity {name!r} in {library.folder}: choose another name, or add --replace."
            )
    elif not resumed:
        check_new_name(name)


def find_identity(text: str, folder: Path) -> Identity:
    """Load the identity of the name ``text`` from the library ``folder``, or the one in the file ``text``.

    Raises:
        IdentityError: There is no such identity, or it is damaged.
        FileError: There is no such file.
    """
    from celeb_basis.identities.identity import load_identity
    from celeb_basis.identities.library import Library

    text = name_argument(text)
    path = expanded(text) if "/" in text or "\\" in text else Path(text)
    if path.suffix.lower() == ".safetensors":
        return load_identity(path)
    library = Library(folder)
    named = len(path.parts) == 1 and library.path_of(text).exists()
    if not named and (instead := other_file(path)):
        raise IdentityError(instead)
    return library.load(text) if named or len(path.parts) < 2 else load_identity(path)


def fitted_identity(
    identity: Identity, model: DiffusionModel, arguments: argparse.Namespace, console: Console
) -> Identity:
    """``identity`` for the loaded checkpoint, re-expanded in its basis if it was made for another one of the family.

    Raises:
        WrongModelError: The identity belongs to another family, or to another list of names.
    """
    from celeb_basis.identities.expand import check_model, expand_identity, stands_for_itself

    check_model(identity, model.info)
    if identity.metadata.base_sha256 == model.info.sha256 or stands_for_itself(identity.metadata):
        return identity
    components = int(identity.coefficients[0].shape[1])
    bases = bases_for(model, open_names(arguments), components)
    fitted = expand_identity(identity, bases, model.info)
    console.note(
        f"{identity.name} was made for {identity.metadata.base_model or 'another model'} and is re-expanded for "
        f"{model.info.name}."
    )
    return fitted


def named_cosines(pairs: Sequence[Sequence[Any]]) -> str:
    """Celebrities with their cosine similarities: ``"Ada Lovelace 0.31, Marie Curie 0.28"``."""
    return ", ".join(f"{name} {cosine:.2f}" for name, cosine in pairs)


# Places for output, checked before any slow work. Nothing of it stays.


def check_folder(folder: Path) -> None:
    """Check that files can be written into ``folder``, which may have to be created first.

    Raises:
        FileError: They cannot.
    """
    folder = expanded(folder).absolute()
    if not is_text(str(folder)):
        raise FileError(f"The name of the folder {folder.name!a} is not text in UTF-8: choose another folder.")
    modes = ((place, _mode(place, folder)) for place in (folder, *folder.parents))
    standing, mode = next(((place, mode) for place, mode in modes if mode is not None), (None, 0))
    if standing is None:  # the letter of a drive that does not exist
        raise FileError(f"{folder.anchor} does not exist: choose another place.")
    if not stat.S_ISDIR(mode):
        raise FileError(f"{standing} is a file, not a folder: choose another place.")
    refused = FileError(f"{standing} cannot be written: choose another folder or change its permissions.")
    if not os.access(standing, os.W_OK | os.X_OK):
        raise refused
    # For root, on Windows and on some file systems, that answer is not to be relied on.
    with explained_os_errors(standing, "write into"):
        try:
            check_writable(standing)
        except FileNotFoundError as error:  # /proc
            raise refused from error


def check_output_file(path: Path | None) -> None:
    """Check that a file can be written at ``path``, if there is a path.

    Raises:
        FileError: It cannot.
    """
    if path is None:
        return
    if not is_text(path.name):
        raise FileError(f"The name of the file {path.name!a} is not text in UTF-8: choose another name.")
    mode = _mode(path, path)
    if mode is not None and stat.S_ISDIR(mode):
        raise FileError(f"{path} is a folder: give the name of a file.")
    check_folder(path.parent)


def _mode(place: Path, wanted: Path) -> int | None:
    """The mode of ``place``, or ``None`` if nothing is there. Whether ``Path.exists`` raises depends on Python's version.

    Raises:
        FileError: About ``wanted``: its name is too long, or a folder above it cannot be searched.
    """
    with explained_os_errors(wanted, "use"):
        try:
            return place.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None
