"""``<name>`` in the WebUI's prompts: which of its functions are wrapped, and what is done around each.

Nothing is put into the host's embedding database. So nothing that clears it (a checkpoint switch, a changed embeddings
folder, the refresh button, Reload UI) removes an identity, and a long list of identities slows none of the host's own search.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from celeb_basis.diffusion_model import ModelInfo, TextEncoder
from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111.embedding_injection import fix_embedding_offsets
from celeb_basis.hosts.a1111.encoder_views import HijackedEncoderView, TextEncoderView
from celeb_basis.hosts.a1111.family import FamilyTextEncoder, LoadedCheckpoint
from celeb_basis.hosts.a1111.model import A1111Checkpoint
from celeb_basis.hosts.a1111.modules import FunctionPatches, embedding_names, host_module, owner_of
from celeb_basis.hosts.torch_utils import leave_inference_mode
from celeb_basis.identities.identity import Identity
from celeb_basis.identities.library import IdentityStatus
from celeb_basis.prompts.registry import Checkpoint, Registry
from celeb_basis.prompts.syntax import COMMENT, NETWORKS, sealed, with_emphasis

_log = logging.getLogger(__name__)

Place = tuple[Any, str, Callable[..., Any]]
"""A module or class of the host, the name of a function there, and what is put around it."""


class Tokens(Protocol):
    """``<name>`` in the program's prompts, as installed there."""

    registry: Registry

    @property
    def checkpoint(self) -> Callable[[], Checkpoint | None]:
        """Returns the loaded checkpoint's text encoders, without loading one."""

    def mentioned(self, *prompts: str) -> tuple[IdentityStatus, ...]:
        """The identities named in ``prompts``, as they are on the loaded checkpoint."""

    def uninstall(self) -> None:
        """Put the program back as it was. A second call does nothing."""


class A1111Tokens(Tokens):
    """The identities of one registry as placeholder tokens in the host's prompts, while they are installed.

    A fork has a subclass that overrides the methods below :meth:`mentioned` where it differs.

    Args:
        registry: Finds the identities.
    """

    supported = "AUTOMATIC1111's WebUI 1.10"
    """The program that has all the functions that are needed."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        registry.has_comments = self.has_comments
        self.installed = False
        self._tracker = self.checkpoint_tracker()
        self._patches = FunctionPatches(self)
        self._embeddings: weakref.WeakKeyDictionary[Identity, Any] = weakref.WeakKeyDictionary()

    @property
    def checkpoint(self) -> Callable[[], Checkpoint | None]:
        """Returns the loaded checkpoint's text encoders, without loading one."""
        return self._tracker

    def install(self) -> None:
        """Wrap the host's functions. Nothing happens if the tokens are installed.

        Raises:
            HostError: In a host that lacks one of the functions. It then stays as it was.
        """
        if self.installed:
            return
        self.installed = True
        for place, name, around in self.places():
            if name not in vars(place):
                self.uninstall()
                raise HostError(f"This WebUI has no {name}, which names in prompts need: use {self.supported}.")
            self._patches.wrap(place, name, around)

    def uninstall(self) -> None:
        """Put the host back as it was. A second call does nothing."""
        self._patches.undo()
        self.installed = False

    def mentioned(self, *prompts: str) -> tuple[IdentityStatus, ...]:
        """The identities named in ``prompts``, as they are on the loaded checkpoint."""
        # Forks generate in torch's inference mode. What is read and cached here is for other uses as well.
        with leave_inference_mode():
            return self.registry.mentioned(prompts, self.checkpoint())

    @classmethod
    def tokenizing_class(cls) -> Any:
        """The class that all text encoders inherit ``tokenize_line`` from; its name changed with the host's versions."""
        wrapper = host_module("sd_hijack_clip").FrozenCLIPEmbedderWithCustomWordsBase
        return next(kind for kind in wrapper.__mro__ if "tokenize_line" in vars(kind))

    def checkpoint_tracker(self) -> CheckpointTracker:
        """The tracker for this host."""
        return CheckpointTracker()

    def places(self) -> list[Place]:
        """The functions of the host that are wrapped."""
        return [
            (self.tokenizing_class(), "tokenize_line", self._tokenize_line),
            # The setting "use old emphasis implementation" goes another way.
            (host_module("sd_hijack_clip_old"), "process_text_old", self._process_text_old),
            *self.prompt_places(),
        ]

    def prompt_places(self) -> list[Place]:
        """Those that read prompts before any text encoder does, and remember the result."""
        return [
            (host_module("extra_networks"), "parse_prompt", self._parse_prompt),
            (host_module("prompt_parser"), "get_learned_conditioning_prompt_schedules", self._schedules),
            (host_module("processing").StableDiffusionProcessing, "cached_params", self._cached_params),
        ]

    def view_of(self, encoder: Any, find: Callable[[str], Any]) -> TextEncoderView:
        """What the host's ``tokenize_line`` gets in place of ``encoder``.

        Args:
            encoder: The host's wrapper of a text encoder.
            find: Returns the host's embedding for what stands between angle brackets, or ``None``.
        """
        return HijackedEncoderView(encoder, find)

    def make_embedding(self, identity: Identity, path: Path) -> Any:
        """The host's own kind of embedding. Its hash goes into the image's parameters, as any embedding's does."""
        device = host_module("devices").device
        vectors = dict(zip(identity.encoders, (one.to(device) for one in identity.token_vectors()), strict=True))
        # SDXL's text encoders look for theirs by name, the one text encoder of the others takes what there is.
        vec = vectors if len(vectors) > 1 else next(iter(vectors.values()))
        embedding = host_module("textual_inversion.textual_inversion").Embedding(vec, f"<{identity.name}>")
        embedding.vectors = identity.positions
        embedding.shape = sum(array.shape[-1] for array in identity.vectors)
        embedding.filename = str(path)
        embedding.set_hash(identity.content_hash)
        return embedding

    def has_emphasis(self) -> bool:
        """Whether the host reads ``(word:0.8)`` as an emphasis."""
        opts = host_module("shared").opts
        return opts.emphasis != "None" and not opts.use_old_emphasis_implementation

    def has_comments(self) -> bool:
        """Whether the host leaves out what follows a # in prompts."""
        return bool(getattr(host_module("shared").opts, "enable_prompt_comments", False))

    def comments(self) -> list[str]:
        """The host's list of sentences that it shows below the next image."""
        comments: list[str] = host_module("sd_hijack").model_hijack.comments
        return comments

    def embedding_names(self) -> frozenset[str]:
        """Names of the host's own embeddings, casefolded."""
        return embedding_names(getattr(host_module("sd_hijack").model_hijack, "embedding_db", None))

    def _tokenize_line(self, original: Any, encoder: Any, line: str, *args: Any, **kwargs: Any) -> Any:
        if "<" not in line:
            return original(encoder, line, *args, **kwargs)
        view = self._view(encoder)
        chunks, count = original(view, self._with_emphasis(line), *args, **kwargs)
        fix_embedding_offsets(chunks, view.placed.__contains__)
        return chunks, count

    def _process_text_old(self, original: Any, encoder: Any, texts: Sequence[str]) -> Any:
        return original(self._view(encoder), [self._with_emphasis(text) for text in texts])

    def _view(self, encoder: Any) -> TextEncoderView:
        checkpoint = self.checkpoint()

        def find(text: str) -> Any | None:
            with leave_inference_mode():
                return self._embedding(self.registry.find(text, checkpoint))

        return self.view_of(encoder, find)

    def _parse_prompt(self, original: Any, prompt: str) -> Any:
        if "<" not in prompt:
            return original(prompt)
        for tag, reason in self._mistakes(prompt):
            if ":" in tag:  # the host takes it for an extra network that it does not have; others stay in the text
                self._comment(f"{tag} was left out: {reason}")
        # Before the host takes <name:0.8> for an extra network that it does not have.
        text, names = sealed(self._with_emphasis(prompt), self.registry.known)
        text, networks = original(text)
        return text.translate(names), networks

    def _schedules(self, original: Any, prompts: Sequence[str], *args: Any, **kwargs: Any) -> Any:
        if not any("<" in prompt for prompt in prompts):
            return original(prompts, *args, **kwargs)
        # Negative prompts are not searched for extra networks, yet their [a:b:0.5] must not be cut at a name's colon.
        # Where a colon stands by itself, the host's parser has several readings, and takes one by the lengths of words:
        # to it, every identity is a word of one character.
        parts = [sealed(self._with_emphasis(prompt), self.registry.known) for prompt in prompts]
        schedules = original([text for text, _ in parts], *args, **kwargs)
        return [
            [[end, text.translate(names)] for end, text in schedule]
            for schedule, (_, names) in zip(schedules, parts, strict=True)
        ]

    def _cached_params(self, original: Any, processing: Any, required_prompts: Any, *args: Any, **kwargs: Any) -> Any:
        # The cached conditioning depends on an identity's vectors as well.
        named = self.mentioned(*required_prompts)
        for one in (*named, *self._lost_in_comments(processing)):
            if not one.available:
                processing.comment(f"<{one.name}> was read as plain text: {one.reason}")
        for tag, reason in (found for prompt in required_prompts for found in self._mistakes(prompt)):
            processing.comment(f"{tag} was read as plain text: {reason}")
        content = tuple((one.name, one.reason if one.identity is None else one.identity.content_hash) for one in named)
        return (*original(processing, required_prompts, *args, **kwargs), content)

    def _lost_in_comments(self, processing: Any) -> list[IdentityStatus]:
        """Those whom the host has left out of the prompts, because a # in the name begins a comment."""
        typed = [getattr(processing, name, None) for name in ("prompt", "negative_prompt")]
        texts = [text for one in typed for text in ([one] if isinstance(one, str) else one or ()) if COMMENT in text]
        found = self.mentioned(*texts) if texts and self.has_comments() else ()
        return [one for one in found if COMMENT in one.name]

    def _mistakes(self, prompt: str) -> list[tuple[str, str]]:
        """Tags that are likely to be meant for an identity but are none's, and no embedding of the host's."""
        if "<" not in prompt:
            return []
        found = self.registry.mistakes_in(prompt, NETWORKS | self._reserved())
        embeddings = self.embedding_names() if found else ()
        return [one for one in found if one[0][1:-1].partition(":")[0].strip().casefold() not in embeddings]

    def _reserved(self) -> set[str]:
        """The host's own kinds of tags."""
        networks = host_module("extra_networks")
        return {*networks.extra_network_registry, *networks.extra_network_aliases}

    def _with_emphasis(self, text: str) -> str:
        return with_emphasis(
            text,
            self.registry.known,
            reserved=self._reserved(),
            emphasis=self.has_emphasis(),
            misread=self._misread,
            shadowed=self._shadowed,
        )

    def _embedding(self, found: IdentityStatus | None) -> Any | None:
        if found is None or found.identity is None:
            return None
        embedding = self._embeddings.get(found.identity)
        if embedding is None:
            embedding = self._embeddings[found.identity] = self.make_embedding(found.identity, found.path)
        return embedding

    def _misread(self, tag: str) -> None:
        name = tag[1:-1].partition(":")[0]
        self._comment(f"{tag} was read as <{name}>: to change its weight, write a number, as in <{name}:0.8>.")

    def _shadowed(self, tag: str) -> None:
        name, _, weight = tag[1:-1].partition(":")
        self._comment(
            f"{tag} is a tag of the WebUI's own, which loads a network: for the person, write (<{name}>:{weight})."
        )

    def _comment(self, text: str) -> None:
        """Have the host show ``text`` once below the next image."""
        comments = self.comments()
        if text not in comments:
            _log.warning("%s", text)
            comments.append(text)


_Tokens = TypeVar("_Tokens", bound=A1111Tokens)


def install(registry: Registry, kind: type[_Tokens] = A1111Tokens) -> _Tokens:  # type: ignore[assignment]
    """Install the tokens of ``registry``, or point the installed ones to its folder.

    The script runs again at every Reload UI while the package stays.
    """
    tokens = installed(kind)
    if isinstance(tokens, kind):
        tokens.registry.folder = registry.folder
        registry.has_comments = tokens.has_comments
        return tokens
    if tokens is not None:  # of another copy of this package
        tokens.uninstall()
    made = kind(registry)
    made.install()
    return made


def installed(kind: type[A1111Tokens] = A1111Tokens) -> Any | None:
    """The tokens of this ``kind`` that are installed in this host, or ``None``."""
    return owner_of(kind.tokenizing_class(), "tokenize_line")


def uninstall(kind: type[A1111Tokens] = A1111Tokens) -> None:
    """Put the host back as it was. Nothing happens if no tokens are installed."""
    if (tokens := installed(kind)) is not None:
        tokens.uninstall()


class CheckpointTracker:
    """Returns the host's loaded checkpoint as a registry needs it, whichever way it was switched. It never loads one.

    The host keeps several models, reuses one model's object for another file's weights, and calls no callback for it.
    """

    checkpoint_type: ClassVar[type[LoadedCheckpoint]] = A1111Checkpoint

    def __init__(self) -> None:
        self._known: tuple[weakref.ref[Any], Any, str | None, Checkpoint] | None = None

    def __call__(self) -> Checkpoint | None:
        """The checkpoint that is loaded now, the same object as long as it is; ``None`` if there is none."""
        model = host_module("sd_models").model_data.sd_model
        described = getattr(model, "sd_checkpoint_info", None)
        if described is None:
            return None
        sha256 = getattr(described, "sha256", None)
        if (known := self._known) is not None and known[0]() is model and known[1] is described and known[2] == sha256:
            return known[3]
        reference = weakref.ref(model)
        info = self.describe(self.checkpoint_type(model), sha256 or "")
        checkpoint = Checkpoint(info, lambda: self.encoders(reference, info))
        self._known = (reference, described, sha256, checkpoint)
        return checkpoint

    def describe(self, checkpoint: LoadedCheckpoint, sha256: str) -> ModelInfo:
        """What is known of a checkpoint.

        Args:
            checkpoint: The loaded checkpoint, which may be of a kind that no identity fits.
            sha256: The digest of its file; empty if the host has not computed it yet.
        """
        family = "sd3" if getattr(checkpoint.model, "is_sd3", False) else checkpoint.family
        return ModelInfo(checkpoint.name, family, sha256, checkpoint.resolution)

    def encoders(self, reference: weakref.ref[Any], info: ModelInfo) -> Sequence[TextEncoder]:
        """The text encoders of a model.

        Raises:
            HostError: If the model is gone, or has no text encoder of CLIP's.
        """
        model = reference()
        if model is None:
            raise HostError(f"{info.name} is no longer loaded: try again.")
        try:
            names = self.encoder_names(self.checkpoint_type(model), info)
        except AttributeError:  # not CLIP's: AltDiffusion, Stable Diffusion 3
            names = []
        if not names:
            raise HostError(f"{info.name} has no CLIP text encoder: choose a Stable Diffusion 1, 2 or XL checkpoint.")
        return [
            FamilyTextEncoder(name, lambda: self.checkpoint_type(reference()), index)
            for index, name in enumerate(names)
        ]

    def encoder_names(self, checkpoint: LoadedCheckpoint, info: ModelInfo) -> list[str]:
        """The names of its text encoders in exported files."""
        keys = checkpoint.embedding_keys
        return ["clip_h"] if info.family == "sd2" else keys
