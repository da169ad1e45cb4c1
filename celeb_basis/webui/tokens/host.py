"""The tokens in the WebUI: which of the host's functions are wrapped, and what is done around each.

Nothing is put into the host's embedding database, so nothing that clears it (a checkpoint switch, a changed embeddings
folder, the refresh button, Reload UI) takes a person away, and a long list of people slows none of the host's own search.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from celeb_basis.errors import HostError
from celeb_basis.hosts.webui.chunks import marks_follow_tokens
from celeb_basis.hosts.webui.shim import host_module
from celeb_basis.webui.tokens.fitting import Checkpoint
from celeb_basis.webui.tokens.loaded import LoadedCheckpoint
from celeb_basis.webui.tokens.patching import Patches, owner_of
from celeb_basis.webui.tokens.registry import Registry, Unavailable, Word
from celeb_basis.webui.tokens.view import EncoderView
from celeb_basis.webui.tokens.words import sealed, with_emphasis

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
        self._embeddings: weakref.WeakKeyDictionary[Word, Any] = weakref.WeakKeyDictionary()

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

    def mentioned(self, *prompts: str) -> tuple[Word | Unavailable, ...]:
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

    def made(self, word: Word) -> Any:
        """The host's own kind of embedding. Its hash goes into the picture's parameters, as any embedding's does."""
        device = host_module("devices").device
        vectors = dict(zip(word.encoders, (tensor.to(device) for tensor in word.vectors), strict=True))
        # SDXL's encoders look for theirs by name, the one encoder of the others takes what there is.
        vec = vectors if len(vectors) > 1 else next(iter(vectors.values()))
        embedding = host_module("textual_inversion.textual_inversion").Embedding(vec, f"<{word.name}>")
        embedding.vectors = word.positions
        embedding.shape = sum(int(tensor.shape[-1]) for tensor in word.vectors)
        embedding.filename = str(word.path)
        embedding.set_hash(word.content_hash)
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
        marks_follow_tokens(chunks, view.placed.__contains__)
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
            if isinstance(person, Unavailable):
                processing.comment(f"<{person.name}> was read as plain text: {person.reason}")
        content = tuple(
            (person.name, person.content_hash if isinstance(person, Word) else person.reason) for person in people
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

    def _embedding(self, found: Word | Unavailable | None) -> Any | None:
        if not isinstance(found, Word):
            return None
        embedding = self._embeddings.get(found)
        if embedding is None:
            embedding = self._embeddings[found] = self.made(found)
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
    package stays), now looking into the folder of ``registry``; else those of ``registry``."""
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
