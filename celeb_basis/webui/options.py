"""The extension's section of the host's settings page, and its flags, as one object."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

SECTION = ("celeb_basis", "Celeb Basis")

DATA_FOLDER = "celeb_basis_data_folder"
FACE_PACK = "celeb_basis_face_pack"
NAMES = "celeb_basis_names"
CLIP = "celeb_basis_clip"
PREVIEW_EVERY = "celeb_basis_preview_every"

DEFAULT_PACK = "buffalo_l"


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
    preview_every: int = 0
    """Steps between two preview pictures; 0 draws none."""


def read_options(opts: Any, flags: Any) -> Options:
    """The settings page's values, where they are set, else the flags'. Both are the host's own objects."""

    def text(key: str, default: str) -> str:
        return str(getattr(opts, key, "") or "").strip() or default

    try:
        every = max(0, int(getattr(opts, PREVIEW_EVERY, 0) or 0))
    except (TypeError, ValueError):
        every = 0
    return Options(
        data_folder=text(DATA_FOLDER, ""),
        face_pack=text(FACE_PACK, str(getattr(flags, "celeb_basis_faces", None) or DEFAULT_PACK)),
        names_file=text(NAMES, str(getattr(flags, "celeb_basis_names", None) or "")),
        clip=text(CLIP, ""),
        preview_every=every,
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
    numbers = {"minimum": 0, "maximum": 1000, "step": 10}
    add(PREVIEW_EVERY, info(0, "Steps between previews", "while learning; 0: none", gradio.Slider, numbers))
