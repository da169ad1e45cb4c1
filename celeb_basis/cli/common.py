"""From what stands on the command line to what the core works with: models, names, faces, libraries, identities."""

from __future__ import annotations

import argparse
import os
import stat
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, get_args, get_type_hints

from celeb_basis.cli.progress import Console
from celeb_basis.errors import FacePackError, FileError, IdentityError
from celeb_basis.files import cache_folder, checked_name, explained_os_errors
from celeb_basis.miniature import CELEBRITY_FACES, MODEL
from celeb_basis.miniature import NAME as MINIATURE
from celeb_basis.settings import PRESETS, TrainingSettings, preset

if TYPE_CHECKING:
    from celeb_basis.diffusion_model import DiffusionModel
    from celeb_basis.faces.insight import InsightFaceNetwork
    from celeb_basis.faces.packs import FacePack
    from celeb_basis.identities.identity import Identity
    from celeb_basis.identities.library import Library
    from celeb_basis.method import Basis
    from celeb_basis.names.lists import NameList
    from celeb_basis.training.run import TrainingSession


@dataclass(frozen=True)
class WorkerSpec:
    """All that another process needs to make a worker of its own; calling it makes one."""

    model: Path
    device: str
    dtype: str
    names: NameList
    pack: str
    """Name of a face model pack, or a folder."""
    agreed: bool = False
    """Whether the pack's licence was agreed to."""

    def __call__(self) -> TrainingSession:
        from celeb_basis.faces.insight import InsightFaceNetwork
        from celeb_basis.faces.packs import obtain_pack
        from celeb_basis.training.run import TrainingSession

        pack = obtain_pack(self.pack, agreed=self.agreed)
        model = load_model(self.model, self.device, self.dtype)
        return TrainingSession(model, self.names, InsightFaceNetwork(pack.folder), known_faces=[CELEBRITY_FACES])


def open_model(arguments: argparse.Namespace, screen: Console) -> DiffusionModel:
    """The checkpoint of ``--model``."""
    screen.note(f"Loading {arguments.model} ...")
    return load_model(arguments.model, arguments.device, arguments.dtype, quiet=not screen.verbose)


def load_model(path: Path, device: str, dtype: str, *, quiet: bool = True) -> DiffusionModel:
    """A checkpoint in diffusers."""
    from celeb_basis.hosts.diffusers import load_host
    from celeb_basis.miniature import MODEL, NAME

    if quiet:
        hush_libraries()
    return load_host(path, device=device, dtype=dtype, name=NAME if path == MODEL else None)  # type: ignore[arg-type]


def open_names(arguments: argparse.Namespace) -> NameList:
    """The list of ``--names``; without one the shipped list, or the miniature's own for the miniature."""
    from celeb_basis.miniature import MODEL, shipped_model_names
    from celeb_basis.names.lists import read_names, shipped_names

    if arguments.names is not None:
        return read_names(arguments.names)
    return shipped_model_names() if getattr(arguments, "model", None) == MODEL else shipped_names()


def obtain_faces(arguments: argparse.Namespace, screen: Console) -> FacePack:
    """The pack of ``--faces``; if it is not on this machine yet, its licence is shown and asked for, then it is downloaded.

    Raises: :class:`LicenseError` if nobody agrees.
    """
    from celeb_basis.faces.packs import find_pack, obtain_pack

    try:
        return find_pack(arguments.faces)
    except FacePackError:
        _agree(arguments, screen)
    bar: Any = None

    def progress(done: int, total: int | None) -> None:
        nonlocal bar
        if bar is None:
            bar = screen.bar(total, f"downloading {arguments.faces}", unit="B", scale=True)
        bar.update(done - bar.n)

    try:
        return obtain_pack(arguments.faces, progress=progress, agreed=True)
    finally:
        if bar is not None:
            bar.close()


def _agree(arguments: argparse.Namespace, screen: Console) -> None:
    """Show the licence of the pack of ``--faces``, and have it agreed to.

    Raises: :class:`LicenseError` if nobody does.
    """
    from celeb_basis.faces.packs import AGREEMENT, SOURCES, licence_to_agree_to, not_agreed

    if (source := SOURCES.get(arguments.faces)) is None:
        return
    size = source.archive_bytes / 1e6
    screen.note(f"The face models {source.name} ({source.about}, {size:.0f} MB) have to be downloaded.")
    screen.note(f"Their licence: {source.licence} See {source.terms}.")
    if arguments.accept_licence or licence_to_agree_to(arguments.faces) is None:
        return
    if not screen.confirm("Do you agree to this licence?"):
        raise not_agreed(source, f"add --accept-licence, or set {AGREEMENT}={source.name}")


def open_faces(arguments: argparse.Namespace, screen: Console) -> InsightFaceNetwork:
    """The networks of ``--faces``."""
    from celeb_basis.faces.insight import InsightFaceNetwork

    return InsightFaceNetwork(obtain_faces(arguments, screen).folder)


def open_library(folder: Path) -> Library:
    """The library in ``folder``, which may not exist yet.

    Raises: :class:`FileError` if identities can be neither read nor written there.
    """
    from celeb_basis.identities.library import Library

    check_folder(folder)
    return Library(folder)


def check_name_is_free(library: Library, name: str, *, replace: bool) -> None:
    """Raises: :class:`IdentityError` for a name of no use, or one that is taken and not to be replaced."""
    name = checked_name(name)
    path = library.path_of(name)
    if path.exists() and not replace:
        raise IdentityError(
            f"There is already an identity {name!r} in {library.folder}: choose another name, or add --replace."
        )


def check_folder(folder: Path) -> None:
    """Raises: :class:`FileError` unless files can be put into ``folder``, which may have to be made. Touches nothing."""
    folder = Path(folder).expanduser().absolute()
    modes = ((place, _mode(place, folder)) for place in (folder, *folder.parents))
    standing, mode = next(((place, mode) for place, mode in modes if mode is not None), (None, 0))
    if standing is None:  # a drive's letter that is no drive
        raise FileError(f"{folder.anchor} does not exist: choose another place.")
    if not stat.S_ISDIR(mode):
        raise FileError(f"{standing} is a file, not a folder: choose another place.")
    if not os.access(standing, os.W_OK | os.X_OK):
        raise FileError(f"{standing} cannot be written: choose another folder or change its permissions.")


def check_output_file(path: Path | None) -> None:
    """Raises: :class:`FileError` unless a file can be written at ``path``. Touches nothing."""
    if path is None:
        return
    mode = _mode(path, path)
    if mode is not None and stat.S_ISDIR(mode):
        raise FileError(f"{path} is a folder: give the name of a file.")
    check_folder(path.parent)


def _mode(place: Path, wanted: Path) -> int | None:
    """What ``place`` is, ``None`` if it is not there. ``Path.exists`` would raise, or not, by Python's version.

    Raises: :class:`FileError`, about ``wanted``, for a name that is too long, or a folder that cannot be looked into.
    """
    with explained_os_errors(wanted, "use"):
        try:
            return place.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None


def find_identity(text: str, folder: Path) -> Identity:
    """The identity called ``text`` in the library ``folder``, or the one in the file ``text``.

    Raises: :class:`IdentityError` if there is none or it is broken, :class:`FileError` for a file that is not there.
    """
    from celeb_basis.identities.identity import load_identity
    from celeb_basis.identities.library import Library

    path = Path(text).expanduser()
    if path.suffix.lower() == ".safetensors" or len(path.parts) > 1:
        return load_identity(path)
    return Library(folder).load(text)


def bases_for(model: DiffusionModel, names: NameList, components: int) -> list[Basis]:
    """The host's bases, through the cache."""
    from celeb_basis.basis import BasisOptions, build_bases

    options = BasisOptions(components=components)
    built = build_bases(model.text_encoders, names, options, cache=bases_cache())
    return [one.basis for one in built]


def bases_cache() -> Path:
    """Folder of the bases that were built before."""
    return cache_folder() / "bases"


def fitted_identity(
    identity: Identity, model: DiffusionModel, arguments: argparse.Namespace, screen: Console
) -> Identity:
    """``identity`` for the loaded checkpoint: as it is, or expanded anew in the basis of another checkpoint of its family.

    Raises: :class:`WrongModelError` for another family or another names list.
    """
    from celeb_basis.identities.expand import check_model, expand_identity, stands_for_itself

    check_model(identity, model.info)
    if identity.metadata.base_sha256 == model.info.sha256 or stands_for_itself(identity.metadata):
        return identity
    components = int(identity.coefficients[0].shape[1])
    bases = bases_for(model, open_names(arguments), components)
    fitted = expand_identity(identity, bases, model.info)
    screen.note(
        f"{identity.name} was made for {identity.metadata.base_model or 'another model'} and is expanded anew "
        f"for {model.info.name}."
    )
    return fitted


def hush_libraries() -> None:
    """Keep the libraries' own bars and remarks off the screen: ours say what happens."""
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


# FOLDED: What several commands' parsers share: their look, and the options for models, faces, names, libraries and
# FOLDED: settings.

Commands: TypeAlias = "argparse._SubParsersAction[CommandParser]"

_SETTING = "setting_"


class UsageError(Exception):
    """The command line is not understood; its text is a full sentence."""


class _Help(argparse.RawDescriptionHelpFormatter):
    """Paragraphs as they are written, and a default wherever one says something."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        silent = (None, argparse.SUPPRESS, False, "")
        if "%(default)" in text or action.default in silent or action.default == [] or not action.option_strings:
            return text
        return text + " (default: %(default)s)"


class CommandParser(argparse.ArgumentParser):
    """A parser that raises :class:`UsageError` where argparse would print its usage and exit."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", _Help)
        options.setdefault("allow_abbrev", False)
        super().__init__(**options)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message[:1].upper()}{message[1:]}: run '{self.prog} --help' to see what it takes.")


def add_command(commands: Commands, name: str, summary: str, description: str) -> CommandParser:
    """A command's parser; ``description`` is its paragraph with the examples."""
    parser = commands.add_parser(name, help=summary, description=description)
    add_common(parser, defaults=False)
    return parser


def add_common(parser: argparse.ArgumentParser, *, defaults: bool) -> None:
    """``--json``, ``--quiet`` and ``-v``, which may stand before the command or after it."""
    default: Any = False if defaults else argparse.SUPPRESS
    group = parser.add_argument_group("output")
    group.add_argument(
        "--json", action="store_true", default=default, help="print the result as JSON, and nothing else"
    )
    group.add_argument("-q", "--quiet", action="store_true", default=default, help="no progress and no remarks")
    group.add_argument("-v", "--verbose", action="store_true", default=default, help="more remarks, and tracebacks")


def add_model(parser: argparse.ArgumentParser, *, required: bool = True, why: str = "") -> None:
    """``--model``, ``--device`` and ``--dtype``."""
    group = parser.add_argument_group("model")
    text = (
        "Stable Diffusion 1.x, 2.x or XL: a folder in diffusers' layout or one .safetensors file; "
        f"or {MINIATURE}, the small one that comes with this program"
    )
    group.add_argument("--model", type=_model, required=required, metavar="PATH", help=text + why)
    group.add_argument("--device", default="auto", help="where it runs: auto, cpu, cuda, cuda:1, mps")
    group.add_argument(
        "--dtype", default="auto", choices=("auto", "fp32", "bf16", "fp16"), help="what its weights are held in"
    )


def _model(text: str) -> Path:
    path = Path(text)
    return MODEL if text == MINIATURE and not path.exists() else path


def add_names(parser: argparse.ArgumentParser) -> None:
    """``--names``."""
    parser.add_argument(
        "--names",
        type=Path,
        metavar="FILE",
        help="list of celebrity names, one a line, UTF-8; the shipped list if left out",
    )


def add_faces(parser: argparse._ActionsContainer) -> None:
    """``--faces``."""
    parser.add_argument(
        "--faces",
        default="buffalo_l",
        metavar="PACK",
        help="face model pack: buffalo_l, antelopev2, miniature (small, for trials), or a folder of .onnx files; "
        "downloaded on first use",
    )
    parser.add_argument(
        "--accept-licence",
        action="store_true",
        help="agree to the licence of that pack, if it has to be downloaded; it is shown and asked for otherwise",
    )


def add_library(parser: argparse._ActionsContainer) -> None:
    """``--library``."""
    parser.add_argument(
        "--library",
        type=Path,
        default=default_library(),
        metavar="FOLDER",
        help="folder of learned people; $CELEB_BASIS_LIBRARY sets another default",
    )


def add_replace(parser: argparse.ArgumentParser) -> None:
    """``--replace``."""
    parser.add_argument("--replace", action="store_true", help="replace an identity of the same name")


def default_library() -> Path:
    """``$CELEB_BASIS_LIBRARY``, else ``celeb-basis/identities`` in the user's data folder."""
    if chosen := os.environ.get("CELEB_BASIS_LIBRARY"):
        return Path(chosen).expanduser()
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA") or "~\\AppData\\Local"
    else:
        base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "celeb-basis" / "identities"


def add_settings(parser: argparse.ArgumentParser) -> None:
    """An option for every field of :class:`TrainingSettings`, and ``--preset`` for all of them."""
    group = parser.add_argument_group("settings of learning")
    group.add_argument(
        "--preset", default="balanced", choices=tuple(PRESETS), help="recipe that the options below change"
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
        # Values stay text: TrainingSettings itself checks them, with a sentence that a page shows just as well.
        group.add_argument(option, metavar=metavar, help=f"{about} (default: {item.default}{span})", **shared)


def settings_changes(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given on the command line."""
    return {key.removeprefix(_SETTING): value for key, value in vars(arguments).items() if key.startswith(_SETTING)}


def chosen_settings(arguments: argparse.Namespace) -> TrainingSettings:
    """The preset with the command line's changes.

    Raises: :class:`SettingsError` for a value out of its range.
    """
    return preset(arguments.preset).changed(settings_changes(arguments))
