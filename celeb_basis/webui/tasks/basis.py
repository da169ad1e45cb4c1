"""Reading the loaded checkpoint: its bases, and identities fitted to it; and the user's own list of names."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from celeb_basis.basis import BasisOptions, BasisSummary, BuiltBasis, build_basis, fitting_components, summarize
from celeb_basis.diffusion_model import DiffusionModel, TextEncoder
from celeb_basis.errors import NamesError, SettingsError
from celeb_basis.files import bases_cache, write_bytes
from celeb_basis.hosts.a1111.app import open_loaded_model
from celeb_basis.identities.expand import check_model, expand_identity, stands_for_itself
from celeb_basis.identities.identity import Identity
from celeb_basis.method import Basis
from celeb_basis.names.lists import NameList, read_names
from celeb_basis.webui.host_queue import HostQueue
from celeb_basis.webui.jobs import Job
from celeb_basis.webui.options import Workspace, set_names_option

_BATCH = 1000
"""Names that are tokenized between two checks for an interruption."""


@dataclass(frozen=True)
class ModelAccess:
    """Reading the loaded checkpoint while jobs of ours may work with it.

    A ``job`` given to a method is shown its progress, and ends with :class:`StoppedError` when it is interrupted.
    """

    queue: HostQueue
    names: Callable[[], NameList]
    """The list of names that bases are made from, as it is chosen now."""

    @contextmanager
    def read(self, job: Job | None = None) -> Iterator[DiffusionModel]:
        """The loaded checkpoint, to read from: only jobs of ours work with it at the same time.

        Raises:
            HostError: No checkpoint is loaded, or one of a kind that people cannot be learned on.
            StoppedError: ``job`` was interrupted during the wait.
        """
        with self.queue.read_lock(None if job is None else job.interrupt):
            yield open_loaded_model(self.queue.app)

    def build_bases(self, model: DiffusionModel, components: int, job: Job | None = None) -> list[BuiltBasis]:
        """One basis for each text encoder, from the cache where they were built before.

        Raises:
            NamesError: The list of names is unusable, or too short.
            BasisError: There are fewer distinct token vectors than components.
            StoppedError: ``job`` was interrupted.
        """
        options, cache, names = BasisOptions(components), bases_cache(), self.names()
        if job is None:
            return [build_basis(encoder, names, options, cache=cache) for encoder in model.text_encoders]
        built = []
        for encoder in model.text_encoders:
            job.report(f"Building the basis of {encoder.name}", step=0, total=0)
            job.check_interrupted()
            built.append(build_basis(_ReportingEncoder(encoder, job), names, options, cache=cache))
        job.check_interrupted()
        return built

    def bases(self, model: DiffusionModel, components: int, job: Job | None = None) -> list[Basis]:
        """The bases of :meth:`build_bases` without the report on their names."""
        return [one.basis for one in self.build_bases(model, components, job)]

    def fit(self, identity: Identity, model: DiffusionModel, job: Job | None = None) -> Identity:
        """``identity`` on the loaded checkpoint: as it is, or expanded again in that checkpoint's basis.

        Raises:
            WrongModelError: The identity was learned on another family or with another list of names.
            StoppedError: ``job`` was interrupted.
        """
        check_model(identity, model.info)
        if identity.metadata.base_sha256 == model.info.sha256 or stands_for_itself(identity.metadata):
            return identity
        components = int(identity.coefficients[0].shape[1])
        return expand_identity(identity, self.bases(model, components, job), model.info)

    def summaries(self, components: int = 512, job: Job | None = None) -> list[BasisSummary]:
        """Summaries of the bases, one for each text encoder.

        Args:
            components: How many components; fewer where a text encoder's vectors have fewer numbers.
            job: Is shown the progress, and ends the work when it is interrupted.

        Raises:
            SettingsError: No basis has so many components.
            NamesError: The list of names is unusable, or too short.
            StoppedError: ``job`` was interrupted.
        """
        check_components(components)
        with self.read(job) as model:
            fitting = fitting_components(model.text_encoders, components)
            return [summarize(one) for one in self.build_bases(model, fitting, job)]

    def run_summaries(self, job: Job, components: int) -> None:
        """The work of a job: :meth:`summaries`, which become its ``outcome``."""
        job.report("Waiting for the WebUI to finish its work")
        job.outcome = self.summaries(components, job)
        job.result = {"components": job.outcome[0].components, "encoders": [one.encoder for one in job.outcome]}
        job.report("Built", step=1, total=1)


def check_components(components: int) -> None:
    """Raise :class:`SettingsError` for a number of components that no basis has."""
    if not 1 <= components <= 4096:
        raise SettingsError(f"components is {components}: choose a value from 1 to 4096.")


@dataclass(frozen=True)
class _ReportingEncoder(TextEncoder):
    """A text encoder that shows its job how many names it has tokenized."""

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

    def weights(self) -> Iterator[torch.Tensor]:
        return self.encoder.weights()

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        if len(texts) <= _BATCH:
            return self.encoder.tokenize(texts)
        ids: list[list[int]] = []
        for start in range(0, len(texts), _BATCH):
            self.job.check_interrupted()
            ids += self.encoder.tokenize(texts[start : start + _BATCH])
            self.job.report(f"Tokenizing the names with {self.name}", step=len(ids), total=len(texts))
        self.job.report(f"Computing the components of {self.name}", step=0, total=0)
        return ids


# The user's own list of names

_NAMES_FILE = "names.txt"


def use_own_names(workspace: Workspace, file_name: str, data: bytes) -> NameList:
    """Save a list of names in the data folder and choose it in the settings. Identities keep their vectors.

    Raises:
        NamesError: The list is unusable; it is not saved.
        SettingsError: The host's settings are frozen.
    """
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / _NAMES_FILE
        trial.write_bytes(data)
        try:
            read_names(trial)
        except NamesError as error:
            raise NamesError(str(error).replace(str(trial), file_name)) from error
    target = workspace.paths.data / _NAMES_FILE
    write_bytes(target, data)
    set_names_option(target)
    return workspace.names()


def use_shipped_names(workspace: Workspace) -> NameList:
    """Choose the list that comes with Celeb Basis again. The user's own list stays in the data folder.

    Raises:
        SettingsError: The host's settings are frozen.
    """
    set_names_option(None)
    return workspace.names()
