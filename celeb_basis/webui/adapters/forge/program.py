"""Forge around the model: as the WebUI's, but that it loads a checkpoint no earlier than when something is drawn."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from celeb_basis.webui.program import WebUIProgram

if TYPE_CHECKING:
    from celeb_basis.hosts.base import Host
    from celeb_basis.webui.jobs import Job
    from celeb_basis.webui.tokens.fitting import Checkpoint

_PAGE = "modules.ui_extra_networks_textual_inversion"
"""Forge's page of ordinary embeddings, which has read their folder for itself."""


class ForgeProgram(WebUIProgram):
    """Stable Diffusion WebUI Forge."""

    def host(self) -> Host:
        """The loaded checkpoint behind the core's interface."""
        from celeb_basis.hosts.forge import ForgeHost

        return ForgeHost()

    def model_key(self) -> object | None:
        """The identity of the loaded model object; it is not kept."""
        from celeb_basis.hosts.forge.model import loaded_model_or_none

        model = loaded_model_or_none()
        return None if model is None else (id(model), model.sd_model_hash)

    @contextlib.contextmanager
    def exclusive(self, job: Job | None) -> Iterator[None]:
        """Forge's queue lock, with the checkpoint loaded that is chosen at the top of its page."""
        from celeb_basis.hosts.forge.model import load_chosen

        with super().exclusive(job):
            load_chosen()
            yield

    def embedding_names(self) -> frozenset[str]:
        """What the loaded model's databases hold, and the page's, which is there before any model is."""
        from celeb_basis.hosts.forge.model import loaded_model_or_none, text_engines

        model = loaded_model_or_none()
        databases: list[Any] = [engine.embeddings for engine in text_engines(model)] if model is not None else []
        if (page := sys.modules.get(_PAGE)) is not None:
            databases.append(page.embedding_db)
        known = (name for one in databases for name in (*one.word_embeddings, *one.skipped_embeddings))
        return frozenset(name.casefold().strip("<>") for name in known)

    def loaded_checkpoint(self) -> Callable[[], Checkpoint | None]:
        """What tells the checkpoint that is loaded."""
        from celeb_basis.webui.adapters.forge.loaded import LoadedInForge

        return LoadedInForge()
