"""The program around a host's model, as the extension needs it: its queue, its progress bar, its embeddings, its prompts."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from celeb_basis.errors import CelebBasisError, HostError
from celeb_basis.hosts.a1111.modules import embedding_names, host_module

if TYPE_CHECKING:
    from celeb_basis.diffusion_model import DiffusionModel
    from celeb_basis.faces.guidance import GuidedBatch
    from celeb_basis.hosts.a1111.tokens import Tokens
    from celeb_basis.prompts.places import Places
    from celeb_basis.prompts.registry import Checkpoint, Registry

_log = logging.getLogger(__name__)

INTERRUPTED = "It was interrupted with the WebUI's own button."
RELOADED = "It was interrupted because the WebUI's page was reloaded (Reload UI)."
RELOAD = 30.0
"""Seconds after a reload during which an interruption counts as caused by it: a step on a CPU may take as long."""


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
    """The program that the extension runs in. :class:`A1111App` is the WebUI."""

    def loaded_model(self) -> DiffusionModel:
        """The loaded checkpoint.

        Raises:
            HostError: If none is loaded, or it is of a kind that cannot be trained through.
        """

    def model_key(self) -> object | None:
        """A value that is equal as long as the same checkpoint is loaded; ``None`` while none is. Loads nothing."""

    def write_lock(self, task: str | None) -> contextlib.AbstractContextManager[None]:
        """Wait for the program's own queue and hold it. Not re-entrant.

        Args:
            task: The id under which the program's progress display shows the work; ``None`` shows nothing.
        """

    def stop_reason(self) -> str:
        """Why the program wants the current work to end, as a sentence: its own buttons, or a reload of its page.

        Empty if it does not, or has not since :meth:`write_lock` began.
        """

    def reload_began(self) -> None:
        """Called when the program rebuilds its page, for which it interrupts all work."""

    def stop_generation(self) -> None:
        """End the current image at its next sampling step. Only while a job of ours holds the program."""

    def sampling_step(self) -> int:
        """Sampling steps done of the current image."""

    def report(self, progress: HostProgress) -> None:
        """Show ``progress`` in the program's own display. Only inside :meth:`write_lock`."""

    def embedding_names(self) -> frozenset[str]:
        """Names of ordinary embeddings, casefolded, that no identity may take."""

    def embeddings_folder(self) -> Path:
        """Where the program looks for ordinary embeddings."""

    def checkpoint(self) -> Checkpoint | None:
        """The loaded checkpoint's text encoders, without loading one."""


def open_loaded_model(app: HostApp) -> DiffusionModel:
    """The program's loaded checkpoint; an import that fails becomes an error for the user.

    Raises:
        HostError: If no checkpoint is loaded, or the program is not supported.
    """
    try:
        return app.loaded_model()
    except CelebBasisError:
        raise
    except ImportError as error:
        _log.exception("The host cannot be reached.")
        raise HostError(f"The loaded checkpoint cannot be reached ({error}): this WebUI is not supported.") from error


class Adapter(Protocol):
    """One program. Making an adapter imports nothing of it; every method imports what it needs."""

    name: str
    """What users call the program."""
    has_places: bool = False
    """Whether people can have places in its images."""
    has_face_guidance: bool = False
    """Whether its images can be moved towards photos of people."""

    def program(self) -> HostApp:
        """The program around the model; :meth:`HostApp.loaded_model` returns the model itself."""

    def install_tokens(self, registry: Registry) -> Tokens:
        """Have ``<name>`` read in prompts. If that is so already, point the installed tokens to the registry's folder.

        Raises:
            HostError: In a version that lacks what is needed.
        """

    def installed_tokens(self) -> Tokens | None:
        """The tokens that are installed, or ``None``."""

    def use_places(self, processing: Any, places: Places | None) -> None:
        """Have the program's processing object draw its next images with ``places``, or with none.

        Raises:
            HostError: In a program or a version whose samplers cannot be reached.
        """
        del processing
        if places is not None:
            raise HostError(f"Places of people are not supported in {self.name}.")

    def use_guidance(self, processing: Any, guidance: GuidedBatch | None) -> None:
        """Have the program's processing object draw its next batch with ``guidance``, or with none.

        Raises:
            HostError: In a program or a version whose samplers cannot be reached.
        """
        del processing
        if guidance is not None:
            raise HostError(f"Face guidance is not supported in {self.name}.")


class Automatic1111(Adapter):
    """The program that the extension is made for. An unknown fork is treated like it."""

    name = "AUTOMATIC1111's WebUI"
    has_places = has_face_guidance = True

    def program(self) -> HostApp:
        """The WebUI, without the model."""
        return A1111App()

    def install_tokens(self, registry: Registry) -> Tokens:
        """Have the WebUI's text encoders read ``<name>``."""
        from celeb_basis.hosts.a1111.tokens import install

        return install(registry)

    def installed_tokens(self) -> Tokens | None:
        """Those of the WebUI's text encoders."""
        from celeb_basis.hosts.a1111.tokens import installed

        return installed()

    def use_places(self, processing: Any, places: Places | None) -> None:
        """By the WebUI's composed prompts."""
        from celeb_basis.hosts.a1111.sampler_hooks import set_places

        set_places(processing, places)

    def use_guidance(self, processing: Any, guidance: GuidedBatch | None) -> None:
        """Between the WebUI's denoiser and its samplers."""
        from celeb_basis.hosts.a1111.sampler_hooks import set_guidance

        set_guidance(processing, guidance)


class A1111App(HostApp):
    """AUTOMATIC1111's WebUI. Each module of it is imported when it is first needed. A fork has a subclass."""

    def __init__(self) -> None:
        self._tracker: Callable[[], Checkpoint | None] | None = None
        self._reloaded = -RELOAD

    def loaded_model(self) -> DiffusionModel:
        """The loaded checkpoint behind the core's interface."""
        from celeb_basis.hosts.a1111.host import A1111Host

        return A1111Host()

    def model_key(self) -> object | None:
        """The identity of the loaded model object, which is not kept."""
        model = host_module("sd_models").model_data.sd_model
        return None if model is None else (id(model), getattr(model, "sd_model_hash", ""))

    @contextlib.contextmanager
    def write_lock(self, task: str | None) -> Iterator[None]:
        """The WebUI's queue lock, and its state while a task runs."""
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
                # The WebUI's own wrapper does this for its own jobs: the next one must not start interrupted.
                shared.state.interrupted = shared.state.skipped = shared.state.stopping_generation = False
                shared.state.job_count, shared.state.textinfo = 0, None

    def stop_reason(self) -> str:
        """Interrupt, Skip, and Reload UI, before which the WebUI interrupts all work."""
        state = host_module("shared").state
        if not (state.interrupted or state.skipped or getattr(state, "stopping_generation", False)):
            return ""
        return INTERRUPTED if time.monotonic() - self._reloaded > RELOAD else RELOADED

    def reload_began(self) -> None:
        """Reload UI: the WebUI has just set the flags of its Interrupt button."""
        self._reloaded = time.monotonic()

    def stop_generation(self) -> None:
        """As the WebUI's own button does."""
        host_module("shared").state.interrupted = True

    def sampling_step(self) -> int:
        """The WebUI's own count."""
        return int(host_module("shared").state.sampling_step or 0)

    def report(self, progress: HostProgress) -> None:
        """Progress in steps, as the WebUI's own trainer gives it."""
        state = host_module("shared").state
        state.job_count = max(progress.total, 1)
        state.job_no = progress.step
        loss = "" if progress.average_loss is None else f" Loss: {progress.average_loss:.4f}"
        state.textinfo = f"{progress.stage}: {', '.join(progress.people)}.{loss}"

    def embedding_names(self) -> frozenset[str]:
        """What the WebUI's database holds, whether or not it fits the checkpoint."""
        return embedding_names(getattr(host_module("sd_hijack").model_hijack, "embedding_db", None))

    def embeddings_folder(self) -> Path:
        """``--embeddings-dir``."""
        return Path(host_module("shared_cmd_options").cmd_opts.embeddings_dir)

    def checkpoint(self) -> Checkpoint | None:
        """As names in prompts are resolved on it."""
        if self._tracker is None:
            self._tracker = self.checkpoint_tracker()
        return self._tracker()

    def checkpoint_tracker(self) -> Callable[[], Checkpoint | None]:
        """The tracker for this program."""
        from celeb_basis.hosts.a1111.tokens import CheckpointTracker

        return CheckpointTracker()
