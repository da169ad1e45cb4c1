"""Bases of the loaded checkpoint with progress and a way to stop: a long list is tokenized in pieces."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from celeb_basis.errors import NamesError, SettingsError
from celeb_basis.files import cache_folder, write_bytes
from celeb_basis.webui.options import NAMES

if TYPE_CHECKING:
    import torch

    from celeb_basis.basis import BuiltBasis
    from celeb_basis.diffusion_model import DiffusionModel, TextEncoder
    from celeb_basis.names.lists import NameList
    from celeb_basis.webui.jobs import Job
    from celeb_basis.webui.service import Service

_PIECE = 1000
"""Names tokenized between two looks at whether the job is to stop."""


def bases_cache() -> Path:
    """Folder of the bases that were built before."""
    return cache_folder() / "bases"


def built_bases(model: DiffusionModel, names: NameList, components: int, job: Job | None = None) -> list[BuiltBasis]:
    """One basis a text encoder, from the cache where they were built before; ``job`` tells how far it is.

    Raises: :class:`NamesError`, :class:`BasisError`; :class:`StoppedError` if ``job`` was interrupted.
    """
    from celeb_basis.basis import BasisOptions, build_basis

    options, cache = BasisOptions(components), bases_cache()
    if job is None:
        return [build_basis(encoder, names, options, cache=cache) for encoder in model.text_encoders]
    built = []
    for encoder in model.text_encoders:
        watched = _Watched(encoder, job)
        job.say(f"Building the basis of {encoder.name}", step=0, total=0)
        job.check_interrupted()
        built.append(build_basis(watched, names, options, cache=cache))
    job.check_interrupted()
    return built


@dataclass(frozen=True)
class _Watched:
    """A text encoder that tells its job how many names it has tokenized."""

    encoder: TextEncoder
    job: Job

    @property
    def name(self) -> str:
        return self.encoder.name

    @property
    def width(self) -> int:
        return self.encoder.width

    def token_table(self) -> torch.Tensor:
        return self.encoder.token_table()

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        if len(texts) <= _PIECE:
            return self.encoder.tokenize(texts)
        ids: list[list[int]] = []
        for start in range(0, len(texts), _PIECE):
            self.job.check_interrupted()
            ids += self.encoder.tokenize(texts[start : start + _PIECE])
            self.job.say(f"Reading the names with {self.name}", step=len(ids), total=len(texts))
        self.job.say(f"Finding the components of {self.name}", step=0, total=0)
        return ids


# FOLDED: A list of names of the user's own, dropped on the page: checked, kept in the data folder, and put into
# FOLDED: the settings.

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
