"""SD.Next around the model: a queue and a progress bar much like the WebUI's, and its own folder of embeddings."""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeb_basis.diffusion_model import ENCODER_NAMES, ModelInfo, TextEncoder
from celeb_basis.errors import CelebBasisError, HostError
from celeb_basis.hosts.a1111.app import A1111App
from celeb_basis.hosts.a1111.prompts import Patches, owner_of
from celeb_basis.hosts.diffusers.host import family_of
from celeb_basis.hosts.diffusers.text import DiffusersTextEncoder
from celeb_basis.hosts.sdnext.host import (
    checkpoint_name,
    is_stable_diffusion,
    loaded_pipeline_or_none,
    put_token,
    sha256_of,
    text_parts,
)
from celeb_basis.hosts.sdnext.modules import sdnext_module
from celeb_basis.hosts.torch_utils import ordinary_tensors
from celeb_basis.identities.library import IdentityStatus
from celeb_basis.prompts.registry import Checkpoint, Registry
from celeb_basis.prompts.syntax import cut, sealed, with_emphasis

if TYPE_CHECKING:
    from celeb_basis.diffusion_model import DiffusionModel
    from celeb_basis.hosts.a1111.app import Adapter, HostApp, Tokens
    from celeb_basis.prompts.registry import Checkpoint, Registry


class SDNextApp(A1111App):
    """SD.Next."""

    def loaded_model(self) -> DiffusionModel:
        """The loaded checkpoint behind the core's interface."""
        from celeb_basis.hosts.sdnext import SDNextHost

        return SDNextHost()

    def model_key(self) -> object | None:
        """The identity of the denoiser: SD.Next makes a new pipeline around it for each task."""
        unet = getattr(loaded_pipeline_or_none(), "unet", None)
        return None if unet is None else id(unet)

    @contextlib.contextmanager
    def write_lock(self, task: str | None) -> Iterator[None]:
        """SD.Next's queue lock, and its state while a task is under way."""
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
        return LoadedInSDNext()


# FOLDED: SD.Next.


class SDNext:
    """SD.Next keeps the WebUI's way of loading extensions; its models are diffusers' pipelines."""

    name = "SD.Next"

    def program(self) -> HostApp:

        _write_into_its_log()
        return SDNextApp()

    def install_tokens(self, registry: Registry) -> Tokens:

        return install(registry)

    def installed_tokens(self) -> Tokens | None:

        return installed()


def _write_into_its_log() -> None:
    """SD.Next shows and keeps what its own logger is told, and lets nobody else's words through."""
    ours, its = logging.getLogger("celeb_basis"), logging.getLogger("sd")
    if its.handlers:
        ours.handlers, ours.propagate = its.handlers, False


if TYPE_CHECKING:
    _FITS: type[Adapter] = SDNext  # the type checker's proof that the interface is met


# FOLDED: SD.Next's loaded checkpoint as tokens see it. Asking never makes SD.Next load one.


class LoadedInSDNext:
    """Tells whether the checkpoint is still the same, by its text encoder: pipelines come and go around one."""

    def __init__(self) -> None:
        self._known: tuple[weakref.ref[Any], Checkpoint] | None = None

    def __call__(self) -> Checkpoint | None:
        """The checkpoint that is loaded now, the same object as long as it is; ``None`` if there is none."""
        pipeline = loaded_pipeline_or_none()
        if pipeline is None:
            return None
        mark = getattr(pipeline, "text_encoder", None)
        mark = pipeline if mark is None else mark
        if (known := self._known) is not None and known[0]() is mark:
            return known[1]
        plain = is_stable_diffusion(pipeline)
        family = family_of(pipeline) if plain else type(pipeline).__name__.lower()
        # A folder's digest is that of its weights, which is what learning notes down as well.
        sha256 = (sha256_of(pipeline) or "") if plain else ""
        info = ModelInfo(checkpoint_name(pipeline), family, sha256, 0)
        reference = weakref.ref(mark)
        checkpoint = Checkpoint(info, lambda: _encoders(info, reference))
        self._known = (reference, checkpoint)
        return checkpoint


def _encoders(info: ModelInfo, reference: weakref.ref[Any]) -> Sequence[TextEncoder]:
    pipeline, mark = loaded_pipeline_or_none(), reference()
    if (
        pipeline is None
        or mark is None
        or all(mark is not one for one in (pipeline, getattr(pipeline, "text_encoder", None)))
    ):
        raise HostError(f"{info.name} is no longer loaded: try again.")
    if not is_stable_diffusion(pipeline):
        raise HostError(f"{info.name} has no text encoder of CLIP's: choose a Stable Diffusion 1, 2 or XL.")
    tokenizers = [pipeline.tokenizer, getattr(pipeline, "tokenizer_2", None)]
    names = ENCODER_NAMES[family_of(pipeline)]
    return [
        DiffusersTextEncoder(name, part, tokenizer)
        for name, part, tokenizer in zip(names, text_parts(pipeline), tokenizers, strict=False)
    ]


# FOLDED: ``<name>`` in SD.Next's prompts: written as tokens that the loaded checkpoint knows, just before it is
# FOLDED: encoded.
# FOLDED:
# FOLDED: The token is made of the hash of the person's vectors. So whatever SD.Next remembers by the text of a
# FOLDED: prompt is right still
# FOLDED: when a person has changed, and nothing of the prompt language (emphasis, editing, networks) can cut it.

_log = logging.getLogger(__name__)

_PROMPTS = ("prompts", "negative_prompts", "prompts_2", "negative_prompts_2")
"""The arguments of ``set_prompt`` that hold prompts."""
_BEFORE_PROMPTS = 7
"""How many arguments of ``set_prompt`` stand before them."""


class SDNextTokens:
    """The people of one registry as words of SD.Next's prompts, from :meth:`install` to :meth:`uninstall`."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.installed = False
        self.checkpoint: Callable[[], Checkpoint | None] = LoadedInSDNext()
        self._patches = Patches(self)

    def install(self) -> None:
        """Wrap SD.Next's functions; with the tokens installed already, nothing.

        Raises: :class:`HostError` in an SD.Next that lacks one of them, which then stays as it was.
        """
        if self.installed:
            return
        self.installed = True
        places = (
            (sdnext_module("extra_networks"), "parse_prompt", self._parse_prompt),
            (sdnext_module("processing_args"), "set_prompt", self._set_prompt),
        )
        for place, name, around in places:
            if name not in vars(place):
                self.uninstall()
                raise HostError(f"This SD.Next has no {name}, which names in prompts need: update SD.Next.")
            self._patches.wrap(place, name, around)

    def uninstall(self) -> None:
        """Put SD.Next back as it was; a second time, nothing."""
        self._patches.undo()
        self.installed = False

    def mentioned(self, *prompts: str) -> tuple[IdentityStatus, ...]:
        """Everybody named in ``prompts``, as they are on the loaded checkpoint."""
        with ordinary_tensors():
            return self.registry.mentioned(prompts, self.checkpoint())

    def _parse_prompt(self, original: Any, prompt: Any) -> Any:
        if not isinstance(prompt, str) or "<" not in prompt:
            return original(prompt)
        # Before SD.Next takes <name:0.8> for a network that it does not have.
        text, names = sealed(self._emphasised(prompt), self.registry.known)
        text, networks = original(text)
        return text.translate(names), networks

    def _set_prompt(self, original: Any, *given: Any, **named: Any) -> Any:
        arguments = list(given)
        for place, name in enumerate(_PROMPTS, start=_BEFORE_PROMPTS):
            if name in named:
                named[name] = self._written(named[name])
            elif place < len(arguments):
                arguments[place] = self._written(arguments[place])
        return original(*arguments, **named)

    def _written(self, prompts: Any) -> Any:
        """``prompts``, one or several or none, with everybody's token in the place of ``<name>``."""
        if isinstance(prompts, str):
            return self._written_one(prompts)
        return [self._written_one(one) for one in prompts] if isinstance(prompts, (list, tuple)) else prompts

    def _written_one(self, prompt: Any) -> Any:
        if not isinstance(prompt, str) or "<" not in prompt:
            return prompt
        with ordinary_tensors():
            checkpoint = self.checkpoint()
            pieces = cut(self._emphasised(prompt), lambda name: self._token(self.registry.find(name, checkpoint)))
        return "".join(piece if isinstance(piece, str) else piece.text for piece in pieces)

    def _token(self, found: IdentityStatus | None) -> _Token | None:
        if found is None or found.identity is None:  # the registry has told why in the log
            return None
        token = token_of(found.identity.content_hash)
        try:
            put_token(token, found.identity.token_vectors())
        except CelebBasisError as error:
            _log.warning("<%s> was read as plain text: %s", found.name, error)
            return None
        return _Token(token)

    def _emphasised(self, text: str) -> str:
        return with_emphasis(
            text,
            self.registry.known,
            reserved=sdnext_module("extra_networks").extra_network_registry,
            emphasis=sdnext_module("shared").opts.prompt_attention != "fixed",
            misread=_misread,
        )


def token_of(content_hash: str) -> str:
    """The token of whoever's vectors have this hash. SD.Next takes all but letters and digits off the front of a section."""
    return f"celebbasis{content_hash[:16]}"


class _Token:
    """What stands for a person in a prompt."""

    def __init__(self, text: str) -> None:
        self.text = text


def install(registry: Registry) -> SDNextTokens:
    """The tokens of this SD.Next, installed: the ones there are, if any, now looking into the folder of ``registry``."""
    tokens = installed()
    if isinstance(tokens, SDNextTokens):
        tokens.registry.folder = registry.folder
        return tokens
    if tokens is not None:  # of another copy of this package
        tokens.uninstall()
    made = SDNextTokens(registry)
    made.install()
    return made


def installed() -> Any | None:
    """The :class:`SDNextTokens` that is installed in this SD.Next, or ``None``."""
    return owner_of(sdnext_module("processing_args"), "set_prompt")


def _misread(tag: str) -> None:
    name = tag[1:-1].partition(":")[0]
    _log.warning("%s was read as <%s>: to change its weight, write a number, as in <%s:0.8>.", tag, name, name)
