"""SD.Next around the model: a queue and a progress bar much like the WebUI's, and its own folder of embeddings."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from celeb_basis.hosts.sdnext.model import loaded_pipeline_or_none
from celeb_basis.hosts.sdnext.shim import sdnext_module
from celeb_basis.webui.program import WebUIProgram

if TYPE_CHECKING:
    from celeb_basis.hosts.base import Host
    from celeb_basis.webui.jobs import Job
    from celeb_basis.webui.tokens.fitting import Checkpoint


class SDNextProgram(WebUIProgram):
    """SD.Next."""

    def host(self) -> Host:
        """The loaded checkpoint behind the core's interface."""
        from celeb_basis.hosts.sdnext import SDNextHost

        return SDNextHost()

    def model_key(self) -> object | None:
        """The identity of the denoiser: SD.Next makes a new pipeline around it for each task."""
        unet = getattr(loaded_pipeline_or_none(), "unet", None)
        return None if unet is None else id(unet)

    @contextlib.contextmanager
    def exclusive(self, job: Job | None) -> Iterator[None]:
        """SD.Next's queue lock, and its state while a job is under way."""
        progress, state = sdnext_module("progress"), sdnext_module("shared").state
        queue_lock = sdnext_module("call_queue").queue_lock
        if job is None:
            with queue_lock:
                yield
            return
        progress.add_task_to_queue(job.task)
        with queue_lock:
            ours = state.begin("Celeb Basis")
            progress.start_task(job.task)
            try:
                yield
            finally:
                progress.finish_task(job.task)
                state.end(ours)
                # The next job must not find itself interrupted.
                state.interrupted = state.skipped = False

    def embedding_names(self) -> frozenset[str]:
        """What the loaded pipeline's database holds, fitting it or not."""
        database = getattr(loaded_pipeline_or_none(), "embedding_db", None)
        known = [] if database is None else [*database.word_embeddings, *database.skipped_embeddings]
        return frozenset(name.casefold().strip("<>") for name in known)

    def embeddings_folder(self) -> Path:
        """The folder of embeddings of SD.Next's settings."""
        return Path(sdnext_module("shared").opts.embeddings_dir)

    def loaded_checkpoint(self) -> Callable[[], Checkpoint | None]:
        """What tells the checkpoint that is loaded."""
        from celeb_basis.webui.adapters.sdnext.loaded import LoadedInSDNext

        return LoadedInSDNext()
