"""The tokens in the WebUI: which of the host's functions are wrapped, and what is done around each.

Nothing is put into the host's embedding database, so nothing that clears it (a checkpoint switch, a changed embeddings
folder, the refresh button, Reload UI) takes a person away, and a long list of people slows none of the host's own search.
"""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from celeb_basis.diffusion_model import ModelInfo, TextEncoder
from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111.model import checkpoint_name, family_of, resolution_of, text_embedders, token_embedding
from celeb_basis.hosts.a1111.modules import host_module
from celeb_basis.hosts.a1111.text import A1111TextEncoder, fix_embedding_offsets
from celeb_basis.identities.identity import Identity
from celeb_basis.identities.library import IdentityStatus
from celeb_basis.prompts.registry import Checkpoint, Registry
from celeb_basis.prompts.syntax import cut, sealed, with_emphasis

# FOLDED: The host's text encoder as its own ``tokenize_line`` is shown it: with people's names tokenized as one
# FOLDED: word each.
# FOLDED:
# FOLDED: The host's code stays in charge of emphasis, chunks and counts. It asks its encoder for a text's tokens
# FOLDED: and its embedding
# FOLDED: database for what stands at a token; both questions are answered here where they concern a person, and by
# FOLDED: the host elsewhere.


class PlacedWord(int):
    """A person's place in a list of token ids. Equal to no id of any vocabulary; never reaches the text encoder."""

    embedding: Any

    def __new__(cls, embedding: Any) -> PlacedWord:
        word = super().__new__(cls, -1)
        word.embedding = embedding
        return word


class _Delegate:
    """Everything that a subclass does not say itself is the original's, asked for once: a view lives for one prompt."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._original, name)
        self.__dict__[name] = value
        return value


class _View(_Delegate):
    """What a host's ``tokenize_line`` is shown in the place of a text encoder; people are known in its texts.

    Parameters: ``find`` answers the host's embedding for what stands between angle brackets, or ``None``.
    """

    def __init__(self, encoder: Any, find: Callable[[str], Any]) -> None:
        super().__init__(encoder)
        self._find = find
        self.placed: set[Any] = set()
        """The embeddings that were put in anybody's place."""

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, a :class:`PlacedWord` for each person; the text between is tokenized by the host."""
        cuts = [cut(text, lambda name: self._placed(name)) for text in texts]
        plain = [piece for pieces in cuts for piece in pieces if isinstance(piece, str)]
        ids = iter(self._original.tokenize(plain) if plain else ())
        return [
            [token for piece in pieces for token in (next(ids) if isinstance(piece, str) else [piece])]
            for pieces in cuts
        ]

    def _placed(self, name: str) -> PlacedWord | None:
        if (embedding := self._find(name)) is None:
            return None
        self.placed.add(embedding)
        return PlacedWord(embedding)


class EncoderView(_View):
    """A text encoder of the WebUI's, whose embeddings belong to all of them."""

    def __init__(self, encoder: Any, find: Callable[[str], Any]) -> None:
        super().__init__(encoder, find)
        self.hijack = _HijackView(encoder.hijack)


class EngineView(_View):
    """A text engine of Forge's, which has embeddings of its own."""

    def __init__(self, engine: Any, find: Callable[[str], Any]) -> None:
        super().__init__(engine, find)
        self.embeddings = _DatabaseView(engine.embeddings)


class _HijackView(_Delegate):
    def __init__(self, hijack: Any) -> None:
        super().__init__(hijack)
        self.embedding_db = _DatabaseView(hijack.embedding_db)


class _DatabaseView(_Delegate):
    def __init__(self, database: Any) -> None:
        super().__init__(database)
        self._find = database.find_embedding_at_position

    def find_embedding_at_position(self, tokens: Sequence[int], offset: int) -> Any:
        """The embedding at ``offset`` and the number of tokens it takes the place of; ``None`` twice where there is none."""
        token = tokens[offset]
        if token.__class__ is PlacedWord:
            return token.embedding, 1
        return self._find(tokens, offset)


# FOLDED: Wrapping functions of somebody else's objects, so that it can be undone and is never done twice.

_MARK = "celeb_basis_patches"


class Patches:
    """Wrappers put around functions of other modules and classes. Undone, everything is as it was.

    Where somebody else has wrapped the wrapper meanwhile, it cannot be taken out; it then only passes calls through.

    Parameters: ``owner`` is whoever answers for the patches; :func:`owner_of` finds it again.
    """

    def __init__(self, owner: Any) -> None:
        self._owner = owner
        self._active = False
        self._wrapped: list[tuple[Any, str, Any, Any]] = []

    def wrap(self, place: Any, name: str, around: Callable[..., Any]) -> None:
        """Put ``around(original, *args, **kwargs)`` in the place of the function ``name`` of a module or class."""
        original = vars(place)[name]

        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return around(original, *args, **kwargs) if self._active else original(*args, **kwargs)

        setattr(wrapper, _MARK, self._owner)
        setattr(place, name, wrapper)
        self._wrapped.append((place, name, original, wrapper))
        self._active = True

    def undo(self) -> None:
        """Put the originals back. A second time does nothing."""
        self._active = False
        for place, name, original, wrapper in reversed(self._wrapped):
            if vars(place).get(name) is wrapper:
                setattr(place, name, original)
        self._wrapped.clear()


def owner_of(place: Any, name: str) -> Any | None:
    """Who has wrapped the function ``name`` of ``place`` through :class:`Patches`, under others' wrappers too."""
    function = vars(place).get(name)
    while function is not None:
        if (owner := vars(function).get(_MARK)) is not None and vars(owner).get("installed"):
            return owner
        function = getattr(function, "__wrapped__", None)
    return None


# FOLDED: The WebUI's loaded checkpoint as tokens see it. Asking never makes the host load one.


class LoadedCheckpoint:
    """Tells whether the host's checkpoint is still the same, whichever way it was switched.

    The host keeps several models, reuses one model's object for another file's weights, and calls nobody back for it.
    A fork's is a subclass, which says with :meth:`model`, :meth:`info` and :meth:`encoders` what is another there.
    """

    def __init__(self) -> None:
        self._known: tuple[weakref.ref[Any], Any, str | None, Checkpoint] | None = None

    def __call__(self) -> Checkpoint | None:
        """The checkpoint that is loaded now, the same object as long as it is; ``None`` if there is none."""
        model = self.model()
        described = getattr(model, "sd_checkpoint_info", None)
        if described is None:
            return None
        sha256 = getattr(described, "sha256", None)
        if (known := self._known) is not None and known[0]() is model and known[1] is described and known[2] == sha256:
            return known[3]
        reference = weakref.ref(model)
        info = self.info(model, sha256 or "")
        checkpoint = Checkpoint(info, lambda: self.encoders(reference, info))
        self._known = (reference, described, sha256, checkpoint)
        return checkpoint

    def model(self) -> Any | None:
        """The host's model as it is now, or ``None``; what has no ``sd_checkpoint_info`` counts as none."""
        return host_module("sd_models").model_data.sd_model

    def info(self, model: Any, sha256: str) -> ModelInfo:
        """What is known of ``model``, whose file has this digest; empty if the host does not know it yet."""
        family = "sd3" if getattr(model, "is_sd3", False) else str(family_of(model))
        return ModelInfo(checkpoint_name(model), family, sha256, resolution_of(model))

    def encoders(self, reference: weakref.ref[Any], info: ModelInfo) -> Sequence[TextEncoder]:
        """The text encoders of the model that ``reference`` is to.

        Raises: :class:`HostError` if it is gone, or has none of CLIP's.
        """
        model = reference()
        if model is None:
            raise HostError(f"{info.name} is no longer loaded: try again.")
        try:
            embedders = text_embedders(model)
            keys = [token_embedding(embedder).textual_inversion_key for embedder in embedders]
        except AttributeError:  # none of CLIP's: AltDiffusion, Stable Diffusion 3
            raise HostError(
                f"{info.name} has no text encoder of CLIP's: choose a Stable Diffusion 1, 2 or XL."
            ) from None
        # The host itself calls the one encoder of any SD1 or SD2 clip_l.
        names = ["clip_h"] if info.family == "sd2" else keys
        return [A1111TextEncoder(name, _embedder(reference, i)) for i, name in enumerate(names)]


def _embedder(reference: weakref.ref[Any], index: int) -> Callable[[], Any]:
    return lambda: text_embedders(reference())[index]


_log = logging.getLogger(__name__)

Place = tuple[Any, str, Callable[..., Any]]
"""A module or class of the host's, the name of a function there, and what is put around it."""


class HostTokens:
    """The people of one registry as words of the host's prompts, from :meth:`install` to :meth:`uninstall`.

    A fork's tokens are a subclass, which says with the methods below :meth:`mentioned` what is another there.
    """

    supported = "AUTOMATIC1111's WebUI 1.10"
    """The program that has all that is needed."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.installed = False
        self.checkpoint: Callable[[], Checkpoint | None] = self.loaded_checkpoint()
        self._patches = Patches(self)
        self._embeddings: weakref.WeakKeyDictionary[Identity, Any] = weakref.WeakKeyDictionary()

    def install(self) -> None:
        """Wrap the host's functions; with the tokens installed already, nothing.

        Raises: :class:`HostError` in a host that lacks one of them, which then stays as it was.
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
        """Put the host back as it was; a second time, nothing."""
        self._patches.undo()
        self.installed = False

    def mentioned(self, *prompts: str) -> tuple[IdentityStatus, ...]:
        """Everybody named in ``prompts``, as they are on the loaded checkpoint."""
        return self.registry.mentioned(prompts, self.checkpoint())

    @classmethod
    def tokenizing_class(cls) -> Any:
        """The class that all text encoders' wrappers have ``tokenize_line`` from; its name changed with the host's versions."""
        wrapper = host_module("sd_hijack_clip").FrozenCLIPEmbedderWithCustomWordsBase
        return next(kind for kind in wrapper.__mro__ if "tokenize_line" in vars(kind))

    def loaded_checkpoint(self) -> Callable[[], Checkpoint | None]:
        """What tells the checkpoint that is loaded."""
        return LoadedCheckpoint()

    def places(self) -> list[Place]:
        """The functions of the host's that are wrapped."""
        return [
            (self.tokenizing_class(), "tokenize_line", self._tokenize_line),
            # The setting "use old emphasis implementation" goes another way.
            (host_module("sd_hijack_clip_old"), "process_text_old", self._process_text_old),
            *self.prompt_places(),
        ]

    def prompt_places(self) -> list[Place]:
        """Those that read prompts before any text encoder does, and remember what became of them."""
        return [
            (host_module("extra_networks"), "parse_prompt", self._parse_prompt),
            (host_module("prompt_parser"), "get_learned_conditioning_prompt_schedules", self._schedules),
            (host_module("processing").StableDiffusionProcessing, "cached_params", self._cached_params),
        ]

    def view_of(self, encoder: Any, find: Callable[[str], Any]) -> Any:
        """What the host's ``tokenize_line`` is shown in the place of ``encoder``; ``find`` answers a name's embedding.

        Its attribute ``placed`` holds the embeddings that were put in anybody's place.
        """
        return EncoderView(encoder, find)

    def made(self, identity: Identity, path: Path) -> Any:
        """The host's own kind of embedding. Its hash goes into the picture's parameters, as any embedding's does."""
        device = host_module("devices").device
        vectors = dict(zip(identity.encoders, (one.to(device) for one in identity.token_vectors()), strict=True))
        # SDXL's encoders look for theirs by name, the one encoder of the others takes what there is.
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

    def comments(self) -> list[str]:
        """The host's list of sentences that it shows below the next picture."""
        comments: list[str] = host_module("sd_hijack").model_hijack.comments
        return comments

    def _tokenize_line(self, original: Any, encoder: Any, line: str, *args: Any, **kwargs: Any) -> Any:
        if "<" not in line:
            return original(encoder, line, *args, **kwargs)
        checkpoint = self.checkpoint()
        view = self.view_of(encoder, lambda text: self._embedding(self.registry.find(text, checkpoint)))
        chunks, count = original(view, self._emphasised(line), *args, **kwargs)
        fix_embedding_offsets(chunks, view.placed.__contains__)
        return chunks, count

    def _process_text_old(self, original: Any, encoder: Any, texts: Sequence[str]) -> Any:
        checkpoint = self.checkpoint()
        view = self.view_of(encoder, lambda text: self._embedding(self.registry.find(text, checkpoint)))
        return original(view, [self._emphasised(text) for text in texts])

    def _parse_prompt(self, original: Any, prompt: str) -> Any:
        if "<" not in prompt:
            return original(prompt)
        # Before the host takes <name:0.8> for an extra network that it does not have.
        text, names = sealed(self._emphasised(prompt), self.registry.known)
        text, networks = original(text)
        return text.translate(names), networks

    def _schedules(self, original: Any, prompts: Sequence[str], *args: Any, **kwargs: Any) -> Any:
        if not any("<" in prompt for prompt in prompts):
            return original(prompts, *args, **kwargs)
        # Negative prompts are not searched for extra networks, yet their [a:b:0.5] must not be cut at a name's colon.
        # Where a colon stands by itself, the host's parser has several readings, and takes one by the lengths of words:
        # to it, everybody is a word of one character.
        parts = [sealed(self._emphasised(prompt), self.registry.known) for prompt in prompts]
        schedules = original([text for text, _ in parts], *args, **kwargs)
        return [
            [[end, text.translate(names)] for end, text in schedule]
            for schedule, (_, names) in zip(schedules, parts, strict=True)
        ]

    def _cached_params(self, original: Any, processing: Any, required_prompts: Any, *args: Any, **kwargs: Any) -> Any:
        # What a person looks like is a part of what the cached conditioning depends on.
        people = self.mentioned(*required_prompts)
        for person in people:
            if not person.available:
                processing.comment(f"<{person.name}> was read as plain text: {person.reason}")
        content = tuple(
            (person.name, person.reason if person.identity is None else person.identity.content_hash)
            for person in people
        )
        return (*original(processing, required_prompts, *args, **kwargs), content)

    def _emphasised(self, text: str) -> str:
        networks = host_module("extra_networks")
        return with_emphasis(
            text,
            self.registry.known,
            reserved={*networks.extra_network_registry, *networks.extra_network_aliases},
            emphasis=self.has_emphasis(),
            misread=self._misread,
        )

    def _embedding(self, found: IdentityStatus | None) -> Any | None:
        if found is None or found.identity is None:
            return None
        embedding = self._embeddings.get(found.identity)
        if embedding is None:
            embedding = self._embeddings[found.identity] = self.made(found.identity, found.path)
        return embedding

    def _misread(self, tag: str) -> None:
        name = tag[1:-1].partition(":")[0]
        text = f"{tag} was read as <{name}>: to change its weight, write a number, as in <{name}:0.8>."
        comments = self.comments()
        if text not in comments:
            _log.warning("%s", text)
            comments.append(text)


_Tokens = TypeVar("_Tokens", bound=HostTokens)


def install(registry: Registry, kind: type[_Tokens] = HostTokens) -> _Tokens:  # type: ignore[assignment]
    """The tokens of this host, installed: the ones there are, if any (the script runs anew at every Reload UI, the
    package stays), now looking into the folder of ``registry``; else those of ``registry``.
    """
    tokens = installed(kind)
    if isinstance(tokens, kind):
        tokens.registry.folder = registry.folder
        return tokens
    if tokens is not None:  # of another copy of this package
        tokens.uninstall()
    made = kind(registry)
    made.install()
    return made


def installed(kind: type[HostTokens] = HostTokens) -> Any | None:
    """The :class:`HostTokens` that is installed in this host, whose tokens are of this ``kind``, or ``None``."""
    return owner_of(kind.tokenizing_class(), "tokenize_line")


def uninstall(kind: type[HostTokens] = HostTokens) -> None:
    """Put the host back as it was; where nothing is installed, nothing."""
    if (tokens := installed(kind)) is not None:
        tokens.uninstall()


@contextmanager
def tokens_of(folder: Path, kind: type[HostTokens] = HostTokens, **options: Any) -> Iterator[HostTokens]:
    """The people of ``folder`` as words of the host's prompts for a while; ``options`` are those of :class:`Registry`."""
    uninstall(kind)
    tokens = kind(Registry(folder, **options))
    tokens.install()
    try:
        yield tokens
    finally:
        tokens.uninstall()
