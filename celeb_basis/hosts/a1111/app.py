"""What the service needs of the program around it beside the model: its queue, its progress bar, its embeddings."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111.modules import host_module

if TYPE_CHECKING:
    from celeb_basis.diffusion_model import DiffusionModel
    from celeb_basis.identities.library import IdentityStatus
    from celeb_basis.prompts.registry import Checkpoint, Registry


_log = logging.getLogger(__name__)

INTERRUPTED = "It was interrupted with the WebUI's own button."
RELOADED = "It was interrupted because the WebUI's page was built anew (Reload UI)."
RELOAD = 30.0
"""Seconds after a reload in which an interruption is its doing: a step on a CPU may take as long."""


@dataclass(frozen=True)
class HostProgress:
    """What the program's own progress display shows of a job."""

    step: int
    total: int
    """0 while it is not known."""
    stage: str
    """A few words for the user."""
    people: tuple[str, ...] = ()
    average_loss: float | None = None


class HostApp(Protocol):
    """The program that the extension runs in. :class:`A1111App` is the real one."""

    def loaded_model(self) -> DiffusionModel:
        """The loaded checkpoint.

        Raises: :class:`HostError` if none is loaded, or it is of a kind that people cannot be learned on.
        """

    def model_key(self) -> object | None:
        """Something that is equal as long as the same checkpoint is loaded; ``None`` while none is. Loads nothing."""

    def write_lock(self, task: str | None) -> contextlib.AbstractContextManager[None]:
        """Wait for the program's own queue and hold it. Not re-entrant.

        Args:
            task: The id under which the program's progress display shows the work; ``None`` shows nothing.
        """

    def stop_reason(self) -> str:
        """Why the program wants the work under way to end, as a sentence: its own buttons, or a page that is built anew.

        Empty if it does not, or has not since :meth:`write_lock` began.
        """

    def reload_began(self) -> None:
        """The program builds its page anew, for which it interrupts what is under way."""

    def stop_generation(self) -> None:
        """End the picture under way at its next sampling step. Only while a job of ours holds the program."""

    def sampling_step(self) -> int:
        """Sampling steps done of the picture under way."""

    def report(self, progress: HostProgress) -> None:
        """Show ``progress`` in the program's own display. Only inside :meth:`write_lock`."""

    def embedding_names(self) -> frozenset[str]:
        """Names of ordinary embeddings, casefolded, that no identity may take."""

    def embeddings_folder(self) -> Path:
        """Where the program looks for ordinary embeddings."""

    def checkpoint(self) -> Checkpoint | None:
        """The loaded checkpoint's tokens, without loading one."""


class A1111App:
    """AUTOMATIC1111's WebUI. Everything of it is imported when it is first needed. A fork's is a subclass."""

    def __init__(self) -> None:
        self._loaded: Callable[[], Checkpoint | None] | None = None
        self._reloaded = -RELOAD

    def loaded_model(self) -> DiffusionModel:
        """The loaded checkpoint behind the core's interface."""
        from celeb_basis.hosts.a1111 import A1111Host

        return A1111Host()

    def model_key(self) -> object | None:
        """The identity of the loaded model object; it is not kept."""
        model = host_module("sd_models").model_data.sd_model
        return None if model is None else (id(model), getattr(model, "sd_model_hash", ""))

    @contextlib.contextmanager
    def write_lock(self, task: str | None) -> Iterator[None]:
        """The host's queue lock, and its state while a task is under way."""
        progress, shared = host_module("progress"), host_module("shared")
        queue_lock = host_module("call_queue").queue_lock
        if task is None:
            with queue_lock:
                yield
            return
        progress.add_task_to_queue(task)
        with queue_lock:
            shared.state.begin(job=task)
            progress.start_task(task)
            try:
                yield
            finally:
                progress.finish_task(task)
                shared.state.end()
                # The host's own wrapper does this for its own jobs: the next one must not find itself interrupted.
                shared.state.interrupted = shared.state.skipped = shared.state.stopping_generation = False
                shared.state.job_count, shared.state.textinfo = 0, None

    def stop_reason(self) -> str:
        """Interrupt, Skip, and Reload UI, before which the host interrupts all that is under way."""
        state = host_module("shared").state
        if not (state.interrupted or state.skipped or getattr(state, "stopping_generation", False)):
            return ""
        return INTERRUPTED if time.monotonic() - self._reloaded > RELOAD else RELOADED

    def reload_began(self) -> None:
        """Reload UI: the host has just set the flags of its Interrupt button."""
        self._reloaded = time.monotonic()

    def stop_generation(self) -> None:
        """As the host's own button does."""
        host_module("shared").state.interrupted = True

    def sampling_step(self) -> int:
        """The host's own count."""
        return int(host_module("shared").state.sampling_step or 0)

    def report(self, progress: HostProgress) -> None:
        """Progress in steps, as the host's own trainer gives it."""
        state = host_module("shared").state
        state.job_count = max(progress.total, 1)
        state.job_no = progress.step
        loss = "" if progress.average_loss is None else f" Loss: {progress.average_loss:.4f}"
        state.textinfo = f"{progress.stage}: {', '.join(progress.people)}.{loss}"

    def embedding_names(self) -> frozenset[str]:
        """What the host's database holds, fitting the checkpoint or not."""
        database = getattr(host_module("sd_hijack").model_hijack, "embedding_db", None)
        if database is None:
            return frozenset()
        known = (*database.word_embeddings, *database.skipped_embeddings)
        return frozenset(name.casefold().strip("<>") for name in known)

    def embeddings_folder(self) -> Path:
        """``--embeddings-dir``."""
        return Path(host_module("shared_cmd_options").cmd_opts.embeddings_dir)

    def checkpoint(self) -> Checkpoint | None:
        """As the words in prompts see it."""
        if self._loaded is None:
            self._loaded = self.loaded_checkpoint()
        return self._loaded()

    def loaded_checkpoint(self) -> Callable[[], Checkpoint | None]:
        """What tells the checkpoint that is loaded."""
        from celeb_basis.hosts.a1111.prompts import LoadedCheckpoint

        return LoadedCheckpoint()


def open_loaded_model(program: HostApp) -> DiffusionModel:
    """The program's host, whatever fails on the way told in a sentence.

    Raises: :class:`HostError`.
    """
    from celeb_basis.errors import CelebBasisError

    try:
        return program.loaded_model()
    except CelebBasisError:
        raise
    except ImportError as error:
        _log.exception("the host cannot be reached")
        raise HostError(f"The loaded checkpoint cannot be reached ({error}): this WebUI is not supported.") from error


# FOLDED: What the extension asks of the adapter for the program that it runs in.


class Tokens(Protocol):
    """``<name>`` in the program's prompts, as it is installed there."""

    registry: Registry

    @property
    def checkpoint(self) -> Callable[[], Checkpoint | None]:
        """What tells the checkpoint that is loaded, without loading one."""

    def mentioned(self, *prompts: str) -> tuple[IdentityStatus, ...]:
        """Everybody named in ``prompts``, as they are on the loaded checkpoint."""

    def uninstall(self) -> None:
        """Put the program back as it was; a second time, nothing."""


class Adapter(Protocol):
    """One program. Making an adapter imports nothing of it; every method imports what it needs."""

    name: str
    """What people call the program."""

    def program(self) -> HostApp:
        """The program around the model; :meth:`Program.host` gives the model itself."""

    def install_tokens(self, registry: Registry) -> Tokens:
        """Have ``<name>`` read in prompts; a second time, the tokens there are look into the folder of ``registry``.

        Raises: :class:`HostError` in a version that lacks what is needed.
        """

    def installed_tokens(self) -> Tokens | None:
        """The tokens that are installed, or ``None``."""


# FOLDED: AUTOMATIC1111's WebUI.


class Automatic1111:
    """The program that the extension is made for; a fork that is not known is treated like it."""

    name = "AUTOMATIC1111's WebUI"

    def program(self) -> HostApp:

        return A1111App()

    def install_tokens(self, registry: Registry) -> Tokens:
        from celeb_basis.hosts.a1111.prompts import install

        return install(registry)

    def installed_tokens(self) -> Tokens | None:
        from celeb_basis.hosts.a1111.prompts import installed

        return installed()


if TYPE_CHECKING:
    _FITS: type[Adapter] = Automatic1111  # the type checker's proof that the interface is met
