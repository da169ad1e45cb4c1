"""Types of the command line's arguments, and errors about settings in the words that were typed."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import fields
from pathlib import Path

from celeb_basis.settings import TrainingSettings


def path_argument(text: str) -> Path:
    """The type of arguments that take a file or folder. An empty text would be the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty, as from a variable that is not set: give a file or folder")
    return Path(text)


def name_argument(text: str) -> str:
    """The type of arguments that take a person's name: ``ada``, or ``<ada>`` as it stands in prompts."""
    bare = text.strip()
    return bare[1:-1] if len(bare) > 2 and bare[0] == "<" and bare[-1] == ">" else text


def size_step(model: Path | None) -> int:
    """What the sides of a checkpoint's images are multiples of, found without loading it."""
    try:
        blocks = json.loads((Path(model or "") / "vae" / "config.json").read_text(encoding="utf-8"))[
            "block_out_channels"
        ]
        return int(2 ** (min(max(len(blocks), 1), 8) - 1))
    except (OSError, ValueError, KeyError, TypeError):  # a single file, or something that is no checkpoint
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
