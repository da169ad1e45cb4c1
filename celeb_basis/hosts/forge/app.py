"""Forge around the model: as the WebUI's, but that it loads a checkpoint no earlier than when something is drawn."""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from celeb_basis.diffusion_model import ModelInfo, TextEncoder
from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111.app import A1111App
from celeb_basis.hosts.a1111.model import checkpoint_name
from celeb_basis.hosts.a1111.modules import host_module
from celeb_basis.hosts.a1111.prompts import EngineView, HostTokens, LoadedCheckpoint, Place
from celeb_basis.hosts.forge.model import ForgeTextEncoder, family_of, loaded_model_or_none, resolution_of, text_engines
from celeb_basis.hosts.forge.modules import backend_module
from celeb_basis.identities.library import IdentityStatus
from celeb_basis.prompts.registry import Checkpoint, Registry

if TYPE_CHECKING:
    from pathlib import Path

    from celeb_basis.diffusion_model import DiffusionModel
    from celeb_basis.hosts.a1111.app import Adapter, HostApp, Tokens
    from celeb_basis.identities.identity import Identity
    from celeb_basis.prompts.registry import Checkpoint, Registry


_PAGE = "modules.ui_extra_networks_textual_inversion"
"""Forge's page of ordinary embeddings, which has read their folder for itself."""


class ForgeApp(A1111App):
    """Stable Diffusion WebUI Forge."""

    def loaded_model(self) -> DiffusionModel:
        """The loaded checkpoint behind the core's interface."""
        from celeb_basis.hosts.forge import ForgeHost

        return ForgeHost()

    def model_key(self) -> object | None:
        """The identity of the loaded model object; it is not kept."""
        from celeb_basis.hosts.forge.model import loaded_model_or_none

        model = loaded_model_or_none()
        return None if model is None else (id(model), model.sd_model_hash)

    @contextlib.contextmanager
    def write_lock(self, task: str | None) -> Iterator[None]:
        """Forge's queue lock, with the checkpoint loaded that is chosen at the top of its page."""
        from celeb_basis.hosts.forge.model import load_chosen

        with super().write_lock(task):
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
        return LoadedInForge()


# FOLDED: Stable Diffusion WebUI Forge.


class Forge:
    """Forge keeps the WebUI's page, queue and prompt language, and has models and text encoders of its own."""

    name = "Forge"

    def program(self) -> HostApp:

        return ForgeApp()

    def install_tokens(self, registry: Registry) -> Tokens:
        from celeb_basis.hosts.a1111.prompts import install

        return install(registry, ForgeTokens)

    def installed_tokens(self) -> Tokens | None:
        from celeb_basis.hosts.a1111.prompts import installed

        return installed(ForgeTokens)


if TYPE_CHECKING:
    from pathlib import Path

    from celeb_basis.identities.identity import Identity

    _FITS: type[Adapter] = Forge  # the type checker's proof that the interface is met


# FOLDED: Forge's loaded checkpoint as tokens see it. Asking never makes Forge load one.


class LoadedInForge(LoadedCheckpoint):
    """As in the WebUI; models of other kinds (Stable Diffusion 3, Flux) have a family that no person is of."""

    def model(self) -> Any | None:
        return loaded_model_or_none()

    def info(self, model: Any, sha256: str) -> ModelInfo:
        if not (model.is_sd1 or model.is_sd2 or model.is_sdxl):
            family = "sd3" if model.is_sd3 else type(model).__name__.lower()
            return ModelInfo(checkpoint_name(model), family, sha256, 1024)
        return ModelInfo(checkpoint_name(model), family_of(model), sha256, resolution_of(model))

    def encoders(self, reference: weakref.ref[Any], info: ModelInfo) -> Sequence[TextEncoder]:
        model = reference()
        if model is None:
            raise HostError(f"{info.name} is no longer loaded: try again.")
        engines = text_engines(model) if info.family in ("sd1", "sd2", "sdxl") else []
        if not engines:
            raise HostError(f"{info.name} has no text encoder that people fit: choose a Stable Diffusion 1, 2 or XL.")
        # Forge's keys are the names that exported files use.
        return [ForgeTextEncoder(one.embedding_key, _engine(reference, i)) for i, one in enumerate(engines)]


def _engine(reference: weakref.ref[Any], index: int) -> Callable[[], Any]:
    return lambda: text_engines(reference())[index]


# FOLDED: ``<name>`` in Forge's prompts: its text engines cut prompts into tokens as the WebUI's text encoders do.

_NOT_YET = "no checkpoint is loaded yet: Forge loads it with the first picture."


class ForgeTokens(HostTokens):
    """The people of one registry as words of Forge's prompts."""

    supported = "a Forge of August 2024 or later"

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry)
        registry.without_checkpoint = _NOT_YET

    def mentioned(self, *prompts: str) -> tuple[IdentityStatus, ...]:
        with _ordinary_tensors():
            return super().mentioned(*prompts)

    @classmethod
    def tokenizing_class(cls) -> Any:
        return backend_module("text_processing.classic_engine").ClassicTextProcessingEngine

    def loaded_checkpoint(self) -> Callable[[], Checkpoint | None]:
        return LoadedInForge()

    def places(self) -> list[Place]:
        return [(self.tokenizing_class(), "tokenize_line", self._tokenize_line), *self.prompt_places()]

    def view_of(self, encoder: Any, find: Callable[[str], Any]) -> Any:
        def find_ordinary(text: str) -> Any:
            with _ordinary_tensors():
                return find(text)

        return EngineView(encoder, find_ordinary)

    def made(self, identity: Identity, path: Path) -> Any:
        vectors = dict(zip(identity.encoders, identity.token_vectors(), strict=True))
        # SDXL's engines look for theirs by name, the one engine of the others takes what there is.
        vec = vectors if len(vectors) > 1 else next(iter(vectors.values()))
        embedding = backend_module("text_processing.textual_inversion").Embedding(vec, f"<{identity.name}>")
        embedding.vectors = identity.positions
        embedding.shape = sum(array.shape[-1] for array in identity.vectors)
        embedding.filename = str(path)
        return embedding

    def has_emphasis(self) -> bool:
        return bool(host_module("shared").opts.emphasis != "None")

    def comments(self) -> list[str]:
        comments: list[str] = getattr(loaded_model_or_none(), "comments", [])
        return comments


def _ordinary_tensors() -> ExitStack:
    """Forge draws in torch's inference mode; what is read and kept meanwhile is for other uses as well."""
    import torch

    stack = ExitStack()
    stack.enter_context(torch.inference_mode(False))
    stack.enter_context(torch.no_grad())
    return stack
