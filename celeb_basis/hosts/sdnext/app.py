"""SD.Next, the program around the model: a queue and a progress bar much like the WebUI's, and its own embeddings."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from celeb_basis.hosts.a1111.app import A1111App, Adapter, HostApp
from celeb_basis.hosts.sdnext.modules import loaded_pipeline_or_none, sdnext_module

if TYPE_CHECKING:
    from celeb_basis.diffusion_model import DiffusionModel
    from celeb_basis.hosts.a1111.tokens import Tokens
    from celeb_basis.prompts.registry import Checkpoint, Registry


class SDNextApp(A1111App):
    """SD.Next keeps the WebUI's way of loading extensions; its models are pipelines of diffusers."""

    def loaded_model(self) -> DiffusionModel:
        """The loaded checkpoint behind the core's interface."""
        from celeb_basis.hosts.sdnext.host import SDNextHost

        return SDNextHost()

    def model_key(self) -> object | None:
        """The identity of the denoiser: SD.Next makes a new pipeline around it for each task."""
        unet = getattr(loaded_pipeline_or_none(), "unet", None)
        return None if unet is None else id(unet)

    @contextlib.contextmanager
    def write_lock(self, task: str | None) -> Iterator[None]:
        """SD.Next's queue lock, and its state while a task runs."""
        progress, state = sdnext_module("progress"), sdnext_module("shared").state
        queue_lock = sdnext_module("call_queue").queue_lock
        if task is None:
            with queue_lock:
                yield
            return
        progress.add_task_to_queue(task)
        with queue_lock:
            ours = state.begin("Celeb Basis")
            progress.start_task(task)
            try:
                yield
            finally:
                progress.finish_task(task)
                state.end(ours)
                # The next task must not start interrupted.
                state.interrupted = state.skipped = False

    def embedding_names(self) -> frozenset[str]:
        """What the loaded pipeline's database holds, whether or not it fits the pipeline."""
        database = getattr(loaded_pipeline_or_none(), "embedding_db", None)
        known = [] if database is None else [*database.word_embeddings, *database.skipped_embeddings]
        return frozenset(name.casefold().strip("<>") for name in known)

    def embeddings_folder(self) -> Path:
        """The folder of embeddings of SD.Next's settings."""
        return Path(sdnext_module("shared").opts.embeddings_dir)

    def checkpoint_tracker(self) -> Callable[[], Checkpoint | None]:
        """The one for SD.Next."""
        from celeb_basis.hosts.sdnext.tokens import SDNextTracker

        return SDNextTracker()


class SDNext(Adapter):
    """SD.Next."""

    name = "SD.Next"

    def program(self) -> HostApp:
        """The program SD.Next, without the model."""
        _write_into_its_log()
        return SDNextApp()

    def install_tokens(self, registry: Registry) -> Tokens:
        """Have ``<name>`` written as tokens just before SD.Next encodes a prompt."""
        from celeb_basis.hosts.sdnext.tokens import install

        return install(registry)

    def installed_tokens(self) -> Tokens | None:
        """Those around SD.Next's encoding of prompts."""
        from celeb_basis.hosts.sdnext.tokens import installed

        return installed()


def _write_into_its_log() -> None:
    """SD.Next shows and saves what goes to its own logger, and discards the records of all others."""
    ours, its = logging.getLogger("celeb_basis"), logging.getLogger("sd")
    if its.handlers:
        ours.handlers, ours.propagate = its.handlers, False
