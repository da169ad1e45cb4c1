"""Prompts with words in them: tokenized around the words, encoded with the words' vectors in their tokens' places.

The outcome is bit for bit what diffusers makes of the same vectors loaded with ``load_textual_inversion``, but
differentiable, and neither tokenizer nor embedding table is touched.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celeb_basis.diffusion_model import split_at_placeholders
from celeb_basis.errors import HostError

if TYPE_CHECKING:
    import torch

    from celeb_basis.diffusion_model import PlaceholderTokens

_log = logging.getLogger(__name__)

_PLACEHOLDER = 0
"""The id under a vector. Any id of the vocabulary below the end-of-text token serves: its row is replaced."""


@dataclass(frozen=True)
class TokenizedPrompt:
    """Token ids of a prompt, special tokens and padding included, and where words' vectors go."""

    ids: list[int]
    length: int
    """Ids before the padding."""
    places: list[tuple[int, str, int]]
    """Position in ``ids``, word, and which of the word's vectors."""


class DiffusersTextEncoder:
    """A CLIP text transformer of ``transformers`` with its tokenizer."""

    def __init__(self, name: str, model: Any, tokenizer: Any) -> None:
        self._name = name
        self._model = model
        self._tokenizer = tokenizer

    @property
    def name(self) -> str:
        return self._name

    @property
    def width(self) -> int:
        return int(self.token_table().shape[1])

    @property
    def max_tokens(self) -> int:
        """Longest prompt in tokens, start and end included."""
        return int(min(self._tokenizer.model_max_length, self._model.config.max_position_embeddings))

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        return [list(ids) for ids in self._tokenizer(list(texts), add_special_tokens=False).input_ids]

    def token_table(self) -> torch.Tensor:
        table: torch.Tensor = self._model.get_input_embeddings().weight.detach()
        return table

    def encode(
        self, prompts: Sequence[str], words: PlaceholderTokens, which: int, *, penultimate: bool
    ) -> tuple[Any, Any]:
        """Hidden states ``(N, 77, width)`` and, of an encoder with a projection, the pooled output ``(N, P)``.

        Parameters:
            which: this encoder's place in the words' token vectors.
            penultimate: the states before the last layer (SDXL) instead of the final, normalised ones.
        """
        import torch

        vectors = {word: self._checked(word, of_word, which) for word, of_word in words.items()}
        tokenized = [self._tokenized(prompt, vectors) for prompt in prompts]
        ids = torch.tensor([prompt.ids for prompt in tokenized], device=self._model.device)
        mask = None
        if not penultimate and getattr(self._model.config, "use_attention_mask", False):
            lengths = torch.tensor([prompt.length for prompt in tokenized], device=ids.device)
            mask = (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]).long()
        with self._vectors_in_place(tokenized, vectors):
            output = self._model(ids, attention_mask=mask, output_hidden_states=penultimate)
        if not penultimate:
            return output[0], None
        return output.hidden_states[-2], output[0] if output[0].ndim == 2 else None

    def _checked(self, word: str, of_word: Sequence[torch.Tensor], which: int) -> torch.Tensor:
        if not word:
            raise HostError("A word is empty: give it a name such as <person1>.")
        if len(of_word) <= which:
            raise HostError(f"The word {word} has no vectors for the text encoder {self.name}: learn it on this model.")
        vectors = of_word[which]
        if vectors.ndim != 2 or vectors.shape[1] != self.width or not len(vectors):
            raise HostError(
                f"The vectors of the word {word} have the shape {tuple(vectors.shape)}, but the text encoder "
                f"{self.name} takes rows of {self.width} numbers: use vectors made for this model."
            )
        return vectors

    def _tokenized(self, prompt: str, vectors: dict[str, torch.Tensor]) -> TokenizedPrompt:
        tokenizer = self._tokenizer
        ids: list[int] = []
        places: list[tuple[int, str, int]] = []
        for piece in split_at_placeholders(prompt, list(vectors)):
            if piece not in vectors:
                ids += self.tokenize([piece])[0]
                continue
            for number in range(len(vectors[piece])):
                places.append((1 + len(ids), piece, number))
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
            places = [place for place in places if place[0] <= room]
        ids = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
        padding = [tokenizer.pad_token_id] * (self.max_tokens - len(ids))
        return TokenizedPrompt(ids + padding, len(ids), places)

    @contextmanager
    def _vectors_in_place(self, prompts: list[TokenizedPrompt], vectors: dict[str, torch.Tensor]) -> Iterator[None]:
        import torch

        places = [(row, *place) for row, prompt in enumerate(prompts) for place in prompt.places]
        if not places:
            yield
            return

        def replace(_module: Any, _inputs: Any, embedded: torch.Tensor) -> torch.Tensor:
            ready = {word: of_word.to(embedded) for word, of_word in vectors.items()}
            rows = torch.tensor([place[0] for place in places], device=embedded.device)
            columns = torch.tensor([place[1] for place in places], device=embedded.device)
            values = torch.stack([ready[word][number] for _, _, word, number in places])
            return embedded.index_put((rows, columns), values)

        hook = self._model.get_input_embeddings().register_forward_hook(replace)
        try:
            yield
        finally:
            hook.remove()
