"""The extension's settings and flags, and what they choose: the data folder, the library and the list of names."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import SettingsError
from celeb_basis.files import expanded
from celeb_basis.hosts.a1111.modules import host_module
from celeb_basis.identities.library import Library
from celeb_basis.names.lists import NameList, read_names, shipped_names

if TYPE_CHECKING:
    from celeb_basis.prompts.registry import Registry

SECTION = ("celeb_basis", "Celeb Basis")

DATA_FOLDER = "celeb_basis_data_folder"
FACE_PACK = "celeb_basis_face_pack"
NAMES = "celeb_basis_names"
CLIP = "celeb_basis_clip"
PREVIEWS = "celeb_basis_previews"
LIKENESS = "celeb_basis_likeness"

DEFAULT_PACK = "buffalo_l"
DEFAULT_PREVIEWS = 4
"""One for each quarter of a run; together they take about 7 % of its time."""


@dataclass(frozen=True)
class Options:
    """What the user chose on the host's settings page or with a flag."""

    data_folder: str = ""
    face_pack: str = DEFAULT_PACK
    """Name of a face model pack, or its folder."""
    names_file: str = ""
    """The user's own list of names; the shipped one if empty."""
    clip: str = ""
    """What Evaluate measures the Prompt figure with; see :func:`celeb_basis.evaluation.load_clip`."""
    previews: int = DEFAULT_PREVIEWS
    """How often a run generates previews of its people; 0 is never."""
    likeness: bool = True
    """Whether a run ends with a few images of each person, whose likeness is measured."""


def read_options(opts: Any, flags: Any) -> Options:
    """The settings page's values where they are set, else the flags' values.

    Args:
        opts: The host's own object for its settings.
        flags: The host's parsed command line.
    """

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
        likeness=bool(getattr(opts, LIKENESS, True)),
    )


def add_settings() -> None:
    """Add the section to the host's settings page."""
    gradio: Any = importlib.import_module("gradio")
    shared = host_module("shared")

    def info(default: Any, label: str, about: str, component: Any = None, arguments: Any = None) -> Any:
        # The API could otherwise point the extension at any folder of the machine.
        one = shared.OptionInfo(default, label, component, arguments, section=SECTION, restrict_api=True)
        return one.info(about)

    add = shared.opts.add_option
    add(DATA_FOLDER, info("", "Data folder", "people and unfinished runs; empty: --celeb-basis-dir, or celeb-basis"))
    add(FACE_PACK, info("", "Face model pack", f"a name or a folder; empty: --celeb-basis-faces, or {DEFAULT_PACK}"))
    add(NAMES, info("", "List of names", "a text file, one celebrity per line; empty: the shipped list"))
    add(CLIP, info("", "CLIP for Evaluate", "a transformers folder, or open_clip:ARCHITECTURE:WEIGHTS; empty: no CLIP"))
    numbers = {"minimum": 0, "maximum": 20, "step": 1}
    about = "how often a run generates previews of its people; 0: never"
    add(PREVIEWS, info(DEFAULT_PREVIEWS, "Previews in a run", about, gradio.Slider, numbers))
    about = "at the end of a run, four images of each person and, until 64 are known, of two celebrities twice"
    add(LIKENESS, info(True, "Measure the likeness", about))


def set_names_option(file: Path | None) -> None:
    """Choose the list of names ``file`` on the host's settings page, or the shipped list.

    Raises:
        SettingsError: The host was started with frozen settings.
    """
    shared = host_module("shared")
    try:
        shared.opts.set(NAMES, "" if file is None else str(file))
        shared.opts.save(shared.config_filename)
    except AssertionError as error:  # how the host refuses when its settings are frozen
        raise SettingsError(f"The WebUI does not let its settings be changed: {error}.") from error


PEOPLE, UNFINISHED, UPLOADS = "people", "unfinished", "uploads"


@dataclass(frozen=True)
class Paths:
    """Folders of one installation. They are made when something is first written into them."""

    data: Path
    """Everything that belongs to the user."""

    @property
    def people(self) -> Path:
        """The library: one identity file per person."""
        return self.data / PEOPLE

    @property
    def unfinished(self) -> Path:
        """States of runs that were interrupted, and what is needed to resume them."""
        return self.data / UNFINISHED

    @property
    def uploads(self) -> Path:
        """Photos of jobs that have not begun; deleted as soon as they are no longer needed."""
        return self.data / UPLOADS

    @property
    def private(self) -> tuple[Path, Path, Path]:
        """Where people and their photos are."""
        return self.people, self.unfinished, self.uploads


def data_folder(setting: str, flag: str | None, root: Path) -> Path:
    """The data folder: that of the settings page, else of ``--celeb-basis-dir``, else ``celeb-basis`` in ``root``.

    Relative paths are below ``root``, the host's own data folder.
    """
    chosen = setting.strip() or (flag or "").strip() or "celeb-basis"
    return (root / expanded(chosen)).absolute()


@dataclass
class Workspace:
    """The folders, the library and the list of names, as they are chosen at the moment of each question."""

    options: Callable[[], Options]
    root: Path
    """The host's own data folder."""
    flag: str | None = None
    """``--celeb-basis-dir``."""
    registry: Registry | None = None
    """What prompts read; its folder follows the settings. ``None`` where names in prompts are off."""

    @property
    def paths(self) -> Paths:
        """The folders."""
        return Paths(data_folder(self.options().data_folder, self.flag, self.root))

    @property
    def library(self) -> Library:
        """The library."""
        return Library(self.follow_folder())

    def follow_folder(self) -> Path:
        """The library's folder, which prompts and cards read too from now on."""
        folder = self.paths.people
        if self.registry is not None and self.registry.folder != folder:
            self.registry.folder = folder
        return folder

    @property
    def names_file(self) -> Path | None:
        """The user's own list of names; ``None`` for the shipped one."""
        chosen = self.options().names_file
        return self.root / expanded(chosen) if chosen else None

    def names(self) -> NameList:
        """The list of names that bases are made from.

        Raises:
            NamesError: The user's own list is unusable.
        """
        return shipped_names() if (own := self.names_file) is None else read_names(own)

    def known_names(self) -> list[NameList]:
        """The lists that an identity may have been learned with: the user's own, and the shipped one.

        Raises:
            NamesError: The user's own list is unusable.
        """
        return [*([read_names(own)] if (own := self.names_file) is not None else []), shipped_names()]

    def known_names_key(self) -> object:
        """A value that changes as soon as :meth:`known_names` does, found without reading the lists."""
        own = self.names_file
        try:
            status = None if own is None else own.stat()
        except OSError:
            status = None
        return own, status and (status.st_mtime_ns, status.st_size)
