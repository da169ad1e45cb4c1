"""The extension's section of the host's settings page, and its flags, as one object."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECTION = ("celeb_basis", "Celeb Basis")

DATA_FOLDER = "celeb_basis_data_folder"
FACE_PACK = "celeb_basis_face_pack"
NAMES = "celeb_basis_names"
CLIP = "celeb_basis_clip"
PREVIEWS = "celeb_basis_previews"

DEFAULT_PACK = "buffalo_l"
DEFAULT_PREVIEWS = 4
"""One each quarter of a run: seven of a hundred parts of its time."""


@dataclass(frozen=True)
class Options:
    """What the user chose."""

    data_folder: str = ""
    face_pack: str = DEFAULT_PACK
    """Name of a face model pack, or its folder."""
    names_file: str = ""
    """A list of names of the user's own; the shipped one if empty."""
    clip: str = ""
    """What Evaluate measures the Prompt figure with; see ``judging.load_clip``."""
    previews: int = DEFAULT_PREVIEWS
    """Times in a run that everybody in it is drawn; 0 draws nobody."""


def read_options(opts: Any, flags: Any) -> Options:
    """The settings page's values, where they are set, else the flags'. Both are the host's own objects."""

    def text(key: str, default: str) -> str:
        return str(getattr(opts, key, "") or "").strip() or default

    try:
        previews = max(0, int(getattr(opts, PREVIEWS, DEFAULT_PREVIEWS)))
    except (TypeError, ValueError):
        previews = DEFAULT_PREVIEWS
    return Options(
        data_folder=text(DATA_FOLDER, ""),
        face_pack=text(FACE_PACK, str(getattr(flags, "celeb_basis_faces", None) or DEFAULT_PACK)),
        names_file=text(NAMES, str(getattr(flags, "celeb_basis_names", None) or "")),
        clip=text(CLIP, ""),
        previews=previews,
    )


def add_settings() -> None:
    """Add the section to the host's settings page."""
    gradio, shared = importlib.import_module("gradio"), importlib.import_module("modules.shared")

    def info(default: Any, label: str, about: str, component: Any = None, arguments: Any = None) -> Any:
        # The API could otherwise point the extension at any folder of the machine.
        one = shared.OptionInfo(default, label, component, arguments, section=SECTION, restrict_api=True)
        return one.info(about)

    add = shared.opts.add_option
    add(DATA_FOLDER, info("", "Data folder", "people and unfinished runs; empty: --celeb-basis-dir, or celeb-basis"))
    add(FACE_PACK, info("", "Face model pack", f"a name or a folder; empty: --celeb-basis-faces, or {DEFAULT_PACK}"))
    add(NAMES, info("", "List of names", "a text file, one celebrity a line; empty: the shipped list"))
    add(CLIP, info("", "CLIP for Evaluate", "a transformers folder, or open_clip:ARCHITECTURE:WEIGHTS; empty: no CLIP"))
    numbers = {"minimum": 0, "maximum": 20, "step": 1}
    about = "times that a person is drawn while being learned; 0: never"
    add(PREVIEWS, info(DEFAULT_PREVIEWS, "Previews in a run", about, gradio.Slider, numbers))


# FOLDED: Where the extension keeps its files.

PEOPLE, UNFINISHED, UPLOADS, EXPORTS = "people", "unfinished", "uploads", "exports"


@dataclass(frozen=True)
class Paths:
    """Folders of one installation. They are made when something is first put into them."""

    data: Path
    """All that is the user's."""

    @property
    def people(self) -> Path:
        """The library: one identity file a person."""
        return self.data / PEOPLE

    @property
    def unfinished(self) -> Path:
        """States of runs that were interrupted, and what is needed to go on with them."""
        return self.data / UNFINISHED

    @property
    def uploads(self) -> Path:
        """Photos of jobs that have not begun; deleted as soon as they are no longer needed."""
        return self.data / UPLOADS


def data_folder(setting: str, flag: str | None, root: Path) -> Path:
    """The data folder: that of the settings page, else of ``--celeb-basis-dir``, else ``celeb-basis`` in ``root``.

    Relative paths are below ``root``, the host's own data folder.
    """
    chosen = setting.strip() or (flag or "").strip() or "celeb-basis"
    return (root / Path(chosen).expanduser()).absolute()
