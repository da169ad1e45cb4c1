"""``<name>`` in SD.Next's prompts: written as tokens that the loaded checkpoint knows, just before it is encoded.

The token is made of the hash of the identity's vectors. So whatever SD.Next caches by the text of a prompt is still right when
an identity has changed, and nothing of the prompt language (emphasis, editing, networks) can cut it.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch

from celeb_basis.diffusion_model import ENCODER_NAMES, ModelInfo, TextEncoder
from celeb_basis.errors import CelebBasisError, HostError
from celeb_basis.hosts.a1111.modules import FunctionPatches, owner_of
from celeb_basis.hosts.a1111.tokens import Tokens
from celeb_basis.hosts.diffusers.text import DiffusersTextEncoder
from celeb_basis.hosts.sdnext.host import SDNextCheckpoint
from celeb_basis.hosts.sdnext.modules import sdnext_module
from celeb_basis.hosts.torch_utils import leave_inference_mode
from celeb_basis.identities.library import IdentityStatus
from celeb_basis.prompts.registry import Checkpoint, Registry
from celeb_basis.prompts.syntax import NETWORKS, cut, sealed, with_emphasis

_log = logging.getLogger(__name__)

_PROMPTS = ("prompts", "negative_prompts", "prompts_2", "negative_prompts_2")
"""The arguments of ``set_prompt`` that hold prompts."""
_BEFORE_PROMPTS = 7
"""How many arguments of ``set_prompt`` stand before them."""


class SDNextTokens(Tokens):
    """The identities of one registry as placeholder tokens in SD.Next's prompts, while they are installed.

    Args:
        registry: Finds the identities.
    """

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        registry.has_comments = _no_comments
        self.installed = False
        self._tracker = SDNextTracker()
        self._patches = FunctionPatches(self)
        self._warnings: set[str] = set()

    @property
    def checkpoint(self) -> Callable[[], Checkpoint | None]:
        """Returns the loaded checkpoint's text encoders, without loading one."""
        return self._tracker

    def install(self) -> None:
        """Wrap SD.Next's functions. Nothing happens if the tokens are installed.

        Raises:
            HostError: In an SD.Next that lacks one of the functions. It then stays as it was.
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
        """Put SD.Next back as it was. A second call does nothing."""
        self._patches.undo()
        self.installed = False

    def mentioned(self, *prompts: str) -> tuple[IdentityStatus, ...]:
        """The identities named in ``prompts``, as they are on the loaded checkpoint."""
        with leave_inference_mode():
            return self.registry.mentioned(prompts, self.checkpoint())

    def _parse_prompt(self, original: Any, prompt: Any) -> Any:
        if not isinstance(prompt, str) or "<" not in prompt:
            return original(prompt)
        self._warn_of_mistakes(prompt)
        # Before SD.Next takes <name:0.8> for a network that it does not have.
        text, names = sealed(self._with_emphasis(prompt), self.registry.known)
        text, networks = original(text)
        return text.translate(names), networks

    def _set_prompt(self, original: Any, *given: Any, **named: Any) -> Any:
        arguments = list(given)
        for place, name in enumerate(_PROMPTS, start=_BEFORE_PROMPTS):
            if name in named:
                named[name] = self._rewrite_all(named[name])
            elif place < len(arguments):
                arguments[place] = self._rewrite_all(arguments[place])
        return original(*arguments, **named)

    def _rewrite_all(self, prompts: Any) -> Any:
        """One or several prompts or none, with an identity's token in place of each ``<name>``."""
        if isinstance(prompts, str):
            return self._rewritten(prompts)
        return [self._rewritten(one) for one in prompts] if isinstance(prompts, (list, tuple)) else prompts

    def _rewritten(self, prompt: Any) -> Any:
        if not isinstance(prompt, str) or "<" not in prompt:
            return prompt
        self._warn_of_mistakes(prompt)  # negative prompts are not searched for networks
        with leave_inference_mode():
            checkpoint = self.checkpoint()
            pieces = cut(self._with_emphasis(prompt), lambda name: self._token(self.registry.find(name, checkpoint)))
        return "".join(piece if isinstance(piece, str) else piece.text for piece in pieces)

    def _token(self, found: IdentityStatus | None) -> _Token | None:
        if found is None or found.identity is None:  # the registry has logged the reason
            return None
        token = token_of(found.identity.content_hash)
        try:
            add_token(token, found.identity.token_vectors())
        except CelebBasisError as error:
            _log.warning("<%s> was read as plain text: %s", found.name, error)
            return None
        return _Token(token)

    def _warn_of_mistakes(self, prompt: str) -> None:
        networks = sdnext_module("extra_networks").extra_network_registry
        for tag, reason in self.registry.mistakes_in(prompt, NETWORKS.union(networks)):
            if (text := f"{tag} is no person in a prompt: {reason}") not in self._warnings:
                self._warnings.add(text)
                _log.warning("%s", text)

    def _with_emphasis(self, text: str) -> str:
        return with_emphasis(
            text,
            self.registry.known,
            reserved=sdnext_module("extra_networks").extra_network_registry,
            emphasis=sdnext_module("shared").opts.prompt_attention != "fixed",
            misread=_misread,
        )


class _Token:
    """What stands for an identity in a prompt."""

    def __init__(self, text: str) -> None:
        self.text = text


def _misread(tag: str) -> None:
    name = tag[1:-1].partition(":")[0]
    _log.warning("%s was read as <%s>: to change its weight, write a number, as in <%s:0.8>.", tag, name, name)


def _no_comments() -> bool:
    """SD.Next reads a # in a prompt as any other character."""
    return False


def install(registry: Registry) -> SDNextTokens:
    """Install the tokens of ``registry``, or point the installed ones to its folder."""
    tokens = installed()
    if isinstance(tokens, SDNextTokens):
        tokens.registry.folder = registry.folder
        registry.has_comments = _no_comments
        return tokens
    if tokens is not None:  # of another copy of this package
        tokens.uninstall()
    made = SDNextTokens(registry)
    made.install()
    return made


def installed() -> Any | None:
    """The :class:`SDNextTokens` that are installed in this SD.Next, or ``None``."""
    return owner_of(sdnext_module("processing_args"), "set_prompt")


def token_of(content_hash: str) -> str:
    """The token for vectors with this hash. SD.Next strips all but letters and digits from the front of a section."""
    return f"celebbasis{content_hash[:16]}"


def add_token(token: str, vectors: Sequence[torch.Tensor]) -> None:
    """Add a token to SD.Next's tokenizers and text encoders, by SD.Next's own functions for embeddings.

    So a prompt with it is encoded bit for bit as with the same vectors in SD.Next's folder of embeddings, by each of its ways
    to read prompts. A token that exists already is not changed.

    Args:
        token: The token's text.
        vectors: One ``(E, D_i)`` tensor for each text encoder.

    Raises:
        HostError: For vectors that no text encoder takes.
    """
    inversion = sdnext_module("textual_inversion")
    encoders, tokenizers, widths = inversion.get_text_encoders()
    for of_encoder in vectors:
        if of_encoder.shape[1] not in widths:
            raise HostError(
                f"No text encoder of the loaded checkpoint takes vectors of {of_encoder.shape[1]} numbers: choose a "
                "checkpoint of the family that the identity was trained on."
            )
    places = [(encoders[widths.index(one.shape[1])], tokenizers[widths.index(one.shape[1])], one) for one in vectors]
    tokens = [token if number == 0 else f"{token}_{number}" for number in range(len(vectors[0]))]
    if all(_has_token(*place, tokens) for place in places):
        return
    embedding = inversion.Embedding(vec=list(vectors), name=token, filename=None)
    embedding.tokens = tokens
    embedding.vector_sizes = [int(one.shape[1]) for one in vectors]
    inversion.insert_tokens([embedding], tokenizers)
    for encoder, tokenizer in zip(encoders, tokenizers, strict=True):
        rows = encoder.get_input_embeddings().weight.shape[0]
        if rows < len(tokenizer):
            # Otherwise new rows would be sampled like the old ones, which takes seconds; they are overwritten at once.
            encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    inversion.insert_vectors(embedding, tokenizers, encoders, widths)


def _has_token(encoder: Any, tokenizer: Any, vectors: torch.Tensor, tokens: Sequence[str]) -> bool:
    known = tokenizer.added_tokens_encoder
    table = encoder.get_input_embeddings().weight
    ids = [known.get(token, len(table)) for token in tokens]
    return max(ids) < len(table) and torch.equal(table[ids].detach(), vectors.to(table))


class SDNextTracker:
    """Returns SD.Next's loaded checkpoint as a registry needs it. It never loads one.

    A checkpoint is recognized by its text encoder: pipelines come and go around one.
    """

    def __init__(self) -> None:
        self._known: tuple[weakref.ref[Any], Checkpoint] | None = None

    def __call__(self) -> Checkpoint | None:
        """The checkpoint that is loaded now, the same object as long as it is; ``None`` if there is none."""
        loaded = SDNextCheckpoint.current_or_none()
        if loaded is None:
            return None
        mark = _mark(loaded.pipeline)
        if (known := self._known) is not None and known[0]() is mark:
            return known[1]
        # A folder's digest is that of its weights, which training records as well.
        sha256 = (loaded.sha256 or "") if loaded.is_stable_diffusion else ""
        info = ModelInfo(loaded.name, loaded.family, sha256, 0)
        reference = weakref.ref(mark)
        checkpoint = Checkpoint(info, lambda: _encoders(info, reference))
        self._known = (reference, checkpoint)
        return checkpoint


def _encoders(info: ModelInfo, reference: weakref.ref[Any]) -> Sequence[TextEncoder]:
    loaded, mark = SDNextCheckpoint.current_or_none(), reference()
    if loaded is None or mark is None or mark is not _mark(loaded.pipeline):
        raise HostError(f"{info.name} is no longer loaded: try again.")
    if not loaded.is_stable_diffusion:
        raise HostError(f"{info.name} has no CLIP text encoder: choose a Stable Diffusion 1, 2 or XL checkpoint.")
    tokenizers = [loaded.pipeline.tokenizer, getattr(loaded.pipeline, "tokenizer_2", None)]
    names = ENCODER_NAMES[loaded.family]
    return [
        DiffusersTextEncoder(name, part, tokenizer)
        for name, part, tokenizer in zip(names, loaded.text_models, tokenizers, strict=False)
    ]


def _mark(pipeline: Any) -> Any:
    """What stays as long as the checkpoint does: its first text encoder, or the pipeline where there is none."""
    encoder = getattr(pipeline, "text_encoder", None)
    return pipeline if encoder is None else encoder
