"""What several commands' parsers share: their look, and the options for models, faces, names, libraries and settings."""

from __future__ import annotations

import argparse
import os
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, get_args, get_type_hints

from celeb_basis.miniature.shipped import MODEL
from celeb_basis.miniature.shipped import NAME as MINIATURE
from celeb_basis.settings import PRESETS, LearnSettings, preset

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
    """An option for every field of :class:`LearnSettings`, and ``--preset`` for all of them."""
    group = parser.add_argument_group("settings of learning")
    group.add_argument(
        "--preset", default="balanced", choices=tuple(PRESETS), help="recipe that the options below change"
    )
    hints = get_type_hints(LearnSettings)
    for item in fields(LearnSettings):
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
        # Values stay text: LearnSettings itself checks them, with a sentence that a page shows just as well.
        group.add_argument(option, metavar=metavar, help=f"{about} (default: {item.default}{span})", **shared)


def settings_changes(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given on the command line."""
    return {key.removeprefix(_SETTING): value for key, value in vars(arguments).items() if key.startswith(_SETTING)}


def chosen_settings(arguments: argparse.Namespace) -> LearnSettings:
    """The preset with the command line's changes.

    Raises: :class:`SettingsError` for a value out of its range.
    """
    return preset(arguments.preset).changed(settings_changes(arguments))
