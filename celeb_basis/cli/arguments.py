"""Types of the command line's arguments, and errors about settings in the words that were typed."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from celeb_basis.errors import FileError
from celeb_basis.settings import TrainingSettings


def default_library() -> Path:
    """``$CELEB_BASIS_LIBRARY``, or else ``celeb-basis/identities`` in the user's data folder.

    A user without a home folder gets it with ``~``: not every command reads or writes the library.
    """
    if chosen := os.environ.get("CELEB_BASIS_LIBRARY"):
        return Path(os.path.expanduser(chosen))
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA") or "~\\AppData\\Local"
    else:
        base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(os.path.expanduser(base)) / "celeb-basis" / "identities"


def path_argument(text: str) -> Path:
    """The type of arguments that take a file or folder. An empty text would be the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty, as from a variable that is not set: give a file or folder")
    return Path(text)


def path_text(text: str) -> str:
    """The type of arguments that take a file or folder whose end matters, or a name; refuses an empty one."""
    path_argument(text)
    return text


def is_text(text: str) -> bool:
    """Whether ``text`` can be written as UTF-8; bytes on a command line that are no text become halves of characters."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def text_argument(text: str) -> str:
    """The type of arguments that take a prompt or another text."""
    if not is_text(text):
        raise argparse.ArgumentTypeError(
            "this is not text in UTF-8: type it again, or set the terminal's encoding to UTF-8"
        )
    return text


def name_argument(text: str) -> str:
    """The type of arguments that take a person's name: ``ada``, or ``<ada>`` as it stands in prompts."""
    bare = text.strip()
    return bare[1:-1] if len(bare) > 2 and bare[0] == "<" and bare[-1] == ">" else text


PICTURES = frozenset(
    f".{ending}"
    for ending in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "webp", "avif", "heic", "heif"),
        *("bmp", "gif", "tif", "tiff", "jp2", "ppm", "pgm", "qoi", "mpo", "jxl"),
    )
)
"""Suffixes of the files in a folder that count as photos."""

RAW_PICTURES = frozenset(
    f".{ending}"
    for ending in (
        *("nef", "nrw", "dng", "arw", "sr2", "cr2", "cr3", "orf", "rw2", "pef", "raf", "srw"),
        *("3fr", "fff", "iiq", "erf", "kdc", "dcr", "mos", "mrw", "x3f", "rwl"),
    )
)
"""Suffixes of cameras' raw photos. They count where no picture of the same name, but for the suffix, lies beside them."""


def other_file(path: Path) -> str | None:
    """What to do with a file that is no identity, as a sentence; ``None`` if no such file is named."""
    suffix = path.suffix.lower()
    shown = command_line([str(path)])
    if suffix in PICTURES | RAW_PICTURES and os.path.isfile(path):
        return (
            f"{path} is a picture, not a person. To learn the person in it: "
            f"celeb-basis learn {shown} --name NAME --model MODEL."
        )
    if suffix in (".pt", ".bin", ".ckpt", ".pth") and os.path.isfile(path):
        return f"{path} is another tool's file. To add it to the library: celeb-basis import {shown} --as NAME --model MODEL."
    if os.path.isfile(path):
        return f"{path} is not an identity file: give one that ends in .safetensors, or the name of a person in the library."
    if suffix in PICTURES | RAW_PICTURES or suffix in (".pt", ".bin", ".ckpt", ".pth"):
        return f"There is no file {path}, and nobody of that name in the library: check the path."
    return None


def command_line(words: Sequence[str]) -> str:
    """``words`` as one line for this system's shell."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def size_step(model: Path | None) -> int:
    """What the sides of a checkpoint's images are multiples of, found without loading it."""
    from celeb_basis.reading import MAX_HEADER, read_json

    try:
        blocks = read_json(Path(model or "") / "vae" / "config.json", most_bytes=MAX_HEADER)["block_out_channels"]
        return int(2 ** (min(max(len(blocks), 1), 8) - 1))
    except (FileError, ValueError, KeyError, TypeError):  # a single file, or something that is no checkpoint
        return 8


_SETTINGS = sorted((item.name for item in fields(TrainingSettings)), key=len, reverse=True)
_ASSIGNED = re.compile(rf"(?<![\w-])({'|'.join(_SETTINGS)}) = (?=\S)")
_SUBJECT = re.compile(rf"^({'|'.join(_SETTINGS)})(?= is )")
_COMPOUND = re.compile(rf"(?<![\w-])({'|'.join(name for name in _SETTINGS if '_' in name)})(?!\w)")


def with_flags(message: str) -> str:
    """``message`` with the options of the command line in place of settings: ``--batch-size`` for ``batch_size``."""

    def flag(match: re.Match[str]) -> str:
        return "--" + match.group(1).replace("_", "-") + (" " if match.group().endswith(" ") else "")

    return _COMPOUND.sub(flag, _SUBJECT.sub(flag, _ASSIGNED.sub(flag, message)))
