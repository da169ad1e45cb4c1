"""Bases of the loaded checkpoint with progress and a way to stop: a long list is tokenized in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from celeb_basis.files import cache_folder
from celeb_basis.webui.host_queue import StoppedError

if TYPE_CHECKING:
    import torch

    from celeb_basis.basis import BuiltBasis
    from celeb_basis.diffusion_model import Host, TextEncoder
    from celeb_basis.names.lists import NameList
    from celeb_basis.webui.jobs import Job

_PIECE = 1000
"""Names tokenized between two looks at whether the job is to stop."""


def bases_cache() -> Path:
    """Folder of the bases that were built before."""
    return cache_folder() / "bases"


def built_bases(host: Host, names: NameList, components: int, job: Job | None = None) -> list[BuiltBasis]:
    """One basis a text encoder, from the cache where they were built before; ``job`` tells how far it is.

    Raises: :class:`NamesError`, :class:`BasisError`; :class:`StoppedError` if ``job`` was interrupted.
    """
    from celeb_basis.basis import BasisOptions, build_basis

    options, cache = BasisOptions(components), bases_cache()
    if job is None:
        return [build_basis(encoder, names, options, cache=cache) for encoder in host.text_encoders]
    built = []
    for encoder in host.text_encoders:
        watched = _Watched(encoder, job)
        job.say(f"Building the basis of {encoder.name}", step=0, total=0)
        check_stopped(job)
        built.append(build_basis(watched, names, options, cache=cache))
    check_stopped(job)
    return built


def check_stopped(job: Job) -> None:
    """End the work of an interrupted job.

    Raises: :class:`StoppedError`.
    """
    if job.interrupt.asked:
        raise StoppedError("It was interrupted; nothing was changed.")


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
            check_stopped(self.job)
            ids += self.encoder.tokenize(texts[start : start + _PIECE])
            self.job.say(f"Reading the names with {self.name}", step=len(ids), total=len(texts))
        self.job.say(f"Finding the components of {self.name}", step=0, total=0)
        return ids
