"""Encoding prompts with placeholder tokens: the vectors of a token replace the embeddings at its positions.

The result is bit for bit that of diffusers with the same vectors loaded by ``load_textual_inversion``, but it is
differentiable, and neither the tokenizer nor the embedding table is changed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from celeb_basis.diffusion_model import PlaceholderTokens, TextEncoder, split_at_placeholders, to_device
from celeb_basis.errors import HostError
from celeb_basis.prompts.emphasis import BREAK, Token, parse_emphasis, split_into_chunks
from celeb_basis.prompts.syntax import sealed, with_emphasis

_log = logging.getLogger(__name__)

_PLACEHOLDER = 0
"""The id at a position whose embedding is replaced. Any id below that of the end-of-text token would do."""


@dataclass(frozen=True)
class TokenizedPrompt:
    """Token ids of a prompt, with special tokens and padding, and the positions that vectors go to."""

    ids: list[int]
    length: int
    """Number of ids before the padding."""
    positions: list[tuple[int, str, int]]
    """Position in ``ids``, placeholder token, and which of its vectors."""
    weights: tuple[float, ...] = ()
    """The weight of every position; empty if all are 1."""


class DiffusersTextEncoder(TextEncoder):
    """A CLIP text transformer of ``transformers`` with its tokenizer.

    Args:
        name: Its name in exported files, such as ``"clip_l"``.
        model: A ``CLIPTextModel`` or ``CLIPTextModelWithProjection``.
        tokenizer: A ``CLIPTokenizer``.
    """

    def __init__(self, name: str, model: Any, tokenizer: Any) -> None:
        self._name = name
        self._model = model
        self._tokenizer = tokenizer

    @property
    def name(self) -> str:
        """Its name in exported files."""
        return self._name

    @property
    def width(self) -> int:
        """``D``: the width of a token embedding."""
        return int(self.token_table().shape[1])

    @property
    def max_tokens(self) -> int:
        """The length of the longest prompt in tokens, including the start and end tokens."""
        return int(min(self._tokenizer.model_max_length, self._model.config.max_position_embeddings))

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens, padding or truncation."""
        if not texts:
            return []
        return [list(ids) for ids in self._tokenizer(list(texts), add_special_tokens=False).input_ids]

    def token_table(self) -> torch.Tensor:
        """``(V, D)`` token embeddings, detached."""
        table: torch.Tensor = self._model.get_input_embeddings().weight.detach()
        return table

    def weights(self) -> Iterator[torch.Tensor]:
        """All parameters, detached."""
        return (weight.detach() for weight in self._model.parameters())

    def encode(
        self, prompts: Sequence[str], placeholder_tokens: PlaceholderTokens, which: int, *, penultimate: bool
    ) -> tuple[Any, Any]:
        """Encode prompts with the vectors of their placeholder tokens.

        Args:
            prompts: ``N`` prompts.
            placeholder_tokens: The tokens, and their vectors for every text encoder of the model.
            which: The index of this encoder in the vectors of a token.
            penultimate: Return the states before the last layer (SDXL) instead of the final, normalized ones.

        Returns:
            Hidden states ``(N, 77, width)`` and, from an encoder with a projection, the pooled output ``(N, P)``.

        Raises:
            HostError: A token has no usable vectors for this encoder.
        """
        vectors = self._all_checked(placeholder_tokens, which)
        return self._encoded([self._tokenized(prompt, vectors) for prompt in prompts], vectors, penultimate)

    def chunks(self, prompt: str, placeholder_tokens: PlaceholderTokens, which: int) -> list[TokenizedPrompt]:
        """Tokenize a prompt of any length with the weights of its words, as the WebUI does.

        Args:
            prompt: The prompt; :mod:`celeb_basis.prompts.emphasis` says what is read in it.
            placeholder_tokens: The tokens, and their vectors for every text encoder of the model.
            which: The index of this encoder in the vectors of a token.

        Returns:
            At least one chunk.

        Raises:
            HostError: A weight is not a number, or a token has no usable vectors for this encoder.
        """
        vectors = self._all_checked(placeholder_tokens, which)
        known = {token[1:-1]: token for token in vectors if token.startswith("<") and token.endswith(">")}
        text, names = sealed(with_emphasis(prompt, known.get), known.get)
        pieces: list[tuple[list[int | str], float] | None] = []
        for piece in parse_emphasis(text):
            if piece == BREAK:
                pieces.append(None)
                continue
            tokens: list[int | str] = []
            for part in split_at_placeholders(piece[0].translate(names), list(vectors)):
                tokens += [part] if part in vectors else self.tokenize([part])[0]
            pieces.append((tokens, piece[1]))
        counts = {token: len(of_token) for token, of_token in vectors.items()}
        found = split_into_chunks(pieces, counts, room=self.max_tokens - 2, comma=self._comma)
        return [self._chunk(chunk) for chunk in found]

    def encode_chunks(
        self,
        chunks: Sequence[TokenizedPrompt],
        placeholder_tokens: PlaceholderTokens,
        which: int,
        *,
        penultimate: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode one prompt's chunks one after the other, and weight the result.

        Args:
            chunks: From :meth:`chunks`.
            placeholder_tokens: The tokens, and their vectors for every text encoder of the model.
            which: The index of this encoder in the vectors of a token.
            penultimate: As for :meth:`encode`.

        Returns:
            Hidden states ``(1, 77 * chunks, width)``, and the first chunk's pooled output ``(1, P)``, if there is one.
        """
        vectors = self._all_checked(placeholder_tokens, which)
        states, pooled = [], None
        for index, chunk in enumerate(chunks):
            of_chunk, of_pooled = self._encoded([chunk], vectors, penultimate)
            states.append(_emphasized(of_chunk, chunk.weights))
            pooled = of_pooled if index == 0 else pooled
        return states[0] if len(states) == 1 else torch.cat([one.to(states[-1].dtype) for one in states], dim=1), pooled

    def _encoded(
        self, tokenized: list[TokenizedPrompt], vectors: dict[str, torch.Tensor], penultimate: bool
    ) -> tuple[Any, Any]:
        ids = to_device(torch.tensor([prompt.ids for prompt in tokenized]), self._model.device)
        mask = None
        if not penultimate and getattr(self._model.config, "use_attention_mask", False):
            lengths = torch.tensor([prompt.length for prompt in tokenized])
            mask = to_device((torch.arange(ids.shape[1]) < lengths[:, None]).long(), ids.device)
        with self._vectors_in_place(tokenized, vectors):
            output = self._model(ids, attention_mask=mask, output_hidden_states=penultimate)
        if not penultimate:
            return output[0], None
        return output.hidden_states[-2], output[0] if output[0].ndim == 2 else None

    @cached_property
    def _comma(self) -> int | None:
        found: int | None = self._tokenizer.get_vocab().get(",</w>")
        return found

    def _chunk(self, tokens: Sequence[Token]) -> TokenizedPrompt:
        tokenizer = self._tokenizer
        ids = [tokenizer.bos_token_id, *(token.id for token in tokens), tokenizer.eos_token_id]
        padding = [tokenizer.pad_token_id] * (self.max_tokens - len(ids))
        positions = [
            (place, token.placeholder, token.vector) for place, token in enumerate(tokens, start=1) if token.placeholder
        ]
        weights: tuple[float, ...] = ()
        if any(token.weight != 1.0 for token in tokens):
            weights = (1.0, *(token.weight for token in tokens), *[1.0] * (1 + len(padding)))
        return TokenizedPrompt(ids + padding, len(ids), positions, weights)

    def _all_checked(self, placeholder_tokens: PlaceholderTokens, which: int) -> dict[str, torch.Tensor]:
        return {token: self._checked(token, of_token, which) for token, of_token in placeholder_tokens.items()}

    def _checked(self, token: str, of_token: Sequence[torch.Tensor], which: int) -> torch.Tensor:
        if not token:
            raise HostError("A placeholder token is empty: give it a name such as <person1>.")
        if len(of_token) <= which:
            raise HostError(
                f"The placeholder token {token} has no vectors for the text encoder {self.name}: learn it on this model."
            )
        vectors = of_token[which]
        if vectors.ndim != 2 or vectors.shape[1] != self.width or not len(vectors):
            raise HostError(
                f"The vectors of the placeholder token {token} have the shape {tuple(vectors.shape)}, but the text encoder "
                f"{self.name} takes rows of {self.width} numbers: use vectors made for this model."
            )
        return vectors

    def _tokenized(self, prompt: str, vectors: dict[str, torch.Tensor]) -> TokenizedPrompt:
        tokenizer = self._tokenizer
        ids: list[int] = []
        positions: list[tuple[int, str, int]] = []
        for piece in split_at_placeholders(prompt, list(vectors)):
            if piece not in vectors:
                ids += self.tokenize([piece])[0]
                continue
            for number in range(len(vectors[piece])):
                positions.append((1 + len(ids), piece, number))
                ids.append(_PLACEHOLDER)
        room = self.max_tokens - 2
        if len(ids) > room:
            _log.warning(
                "A prompt was cut at its end, because the text encoder %s takes %d tokens and it has %d: %s",
                self.name,
                room,
                len(ids),
                prompt,
            )
            ids = ids[:room]
            positions = [position for position in positions if position[0] <= room]
        ids = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
        padding = [tokenizer.pad_token_id] * (self.max_tokens - len(ids))
        return TokenizedPrompt(ids + padding, len(ids), positions)

    @contextmanager
    def _vectors_in_place(self, prompts: list[TokenizedPrompt], vectors: dict[str, torch.Tensor]) -> Iterator[None]:
        positions = [(row, *position) for row, prompt in enumerate(prompts) for position in prompt.positions]
        if not positions:
            yield
            return

        def replace(_module: Any, _inputs: Any, embedded: torch.Tensor) -> torch.Tensor:
            ready = {token: of_token.to(embedded) for token, of_token in vectors.items()}
            places = to_device(torch.tensor([position[:2] for position in positions]).T, embedded.device)
            values = torch.stack([ready[token][number] for _, _, token, number in positions])
            return embedded.index_put((places[0], places[1]), values)

        hook = self._model.get_input_embeddings().register_forward_hook(replace)
        try:
            yield
        finally:
            hook.remove()


def _emphasized(states: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Multiply the states by their positions' weights, and restore the mean over all of them."""
    if not weights:
        return states
    wide = states.float()
    weighted = wide * torch.tensor(weights, device=wide.device)[None, :, None]
    return weighted * (wide.mean() / weighted.mean())
