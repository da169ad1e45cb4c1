"""A list of names of the user's own, dropped on the page: checked, kept in the data folder, and put into the settings."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from celeb_basis.errors import NamesError, SettingsError
from celeb_basis.files import write_bytes
from celeb_basis.webui.options import NAMES

if TYPE_CHECKING:
    from celeb_basis.names.lists import NameList
    from celeb_basis.webui.service import Service

FILE = "names.txt"


def keep_list(service: Service, file_name: str, data: bytes) -> NameList:
    """Use the list in ``data`` from now on; people who were learned keep their vectors.

    Raises: :class:`NamesError` for a list of no use, which is not kept; :class:`SettingsError` where the host's settings
    are frozen.
    """
    from celeb_basis.names.lists import read_names

    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / FILE
        trial.write_bytes(data)
        try:
            read_names(trial)
        except NamesError as error:
            raise NamesError(str(error).replace(str(trial), file_name)) from error
    target = service.paths.data / FILE
    write_bytes(target, data)
    _choose(target)
    return service.names()


def use_shipped(service: Service) -> NameList:
    """Use the list that comes with Celeb Basis again; the user's own stays in the data folder."""
    _choose(None)
    return service.names()


def _choose(path: Path | None) -> None:
    shared = importlib.import_module("modules.shared")
    try:
        shared.opts.set(NAMES, "" if path is None else str(path))
        shared.opts.save(shared.config_filename)
    except AssertionError as error:  # the host's way of saying that it was started with frozen settings
        raise SettingsError(f"The WebUI does not let its settings be changed: {error}.") from error
