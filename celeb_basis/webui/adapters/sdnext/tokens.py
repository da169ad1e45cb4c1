"""``<name>`` in SD.Next's prompts: written as tokens that the loaded checkpoint knows, just before it is encoded.

The token is made of the hash of the person's vectors. So whatever SD.Next remembers by the text of a prompt is right still
when a person has changed, and nothing of the prompt language (emphasis, editing, networks) can cut it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from celeb_basis.errors import CelebBasisError, HostError
from celeb_basis.hosts.ordinary import ordinary_tensors
from celeb_basis.hosts.sdnext.embedding import put_token
from celeb_basis.hosts.sdnext.shim import sdnext_module
from celeb_basis.webui.adapters.sdnext.loaded import LoadedInSDNext
from celeb_basis.webui.tokens.fitting import Checkpoint
from celeb_basis.webui.tokens.patching import Patches, owner_of
from celeb_basis.webui.tokens.registry import Registry, Unavailable, Word
from celeb_basis.webui.tokens.words import cut, sealed, with_emphasis

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

    def mentioned(self, *prompts: str) -> tuple[Word | Unavailable, ...]:
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

    def _token(self, found: Word | Unavailable | None) -> _Token | None:
        if not isinstance(found, Word):  # the registry has told why in the log
            return None
        token = token_of(found.content_hash)
        try:
            put_token(token, found.vectors)
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
