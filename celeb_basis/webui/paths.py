"""Where the extension keeps its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
