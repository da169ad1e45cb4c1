"""The text encoder: CLIP's causal transformer with its whole vocabulary, of which only the world's tokens are trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from celeb_basis.errors import FileError
from celeb_basis.hosts.diffusers.configs import MAX_TOKENS, clip_tokenizer, text_config
from miniature.training.checkpoints import load_state, read_facts, save_state

WIDTH, LAYERS = 192, 2
"""Width of a token's vector, which the denoiser's cross-attention reads, and number of layers."""

TOKEN_STD = 0.385 / WIDTH**0.5
"""So that a token's vector is as long as one of CLIP-L's."""

_SEED = 12


class WorldText(nn.Module):
    """The text transformer with a table of the world's tokens only. The rest of the vocabulary keeps its random rows."""

    def __init__(self, used: Sequence[int]) -> None:
        """``used`` are the token ids that can occur in captions, in a fixed order."""
        from transformers import CLIPTextConfig, CLIPTextModel

        super().__init__()
        torch.manual_seed(_SEED)
        config = text_config("quick_gelu", WIDTH, LAYERS)
        self.used = list(used)
        table = TOKEN_STD * torch.randn(config["vocab_size"], WIDTH, generator=torch.Generator().manual_seed(_SEED))
        self.transformer: Any = CLIPTextModel(CLIPTextConfig(**config))
        with torch.no_grad():
            _embeddings(self.transformer).position_embedding.weight.mul_(0.25)
        small = nn.Embedding(len(self.used), WIDTH)
        small.weight.data.copy_(table[self.used])
        _embeddings(self.transformer).token_embedding = small
        places = torch.full((config["vocab_size"],), -1)
        places[torch.tensor(self.used)] = torch.arange(len(self.used))
        self.register_buffer("_places", places, persistent=False)
        self._table = table

    _places: Tensor

    @property
    def table(self) -> nn.Embedding:
        """The trained rows, in the order of ``used``."""
        embedding: nn.Embedding = _embeddings(self.transformer).token_embedding
        return embedding

    def forward(self, ids: Tensor) -> Tensor:
        """``(N, L, WIDTH)`` hidden states, after the final norm, of ``(N, L)`` token ids."""
        hidden: Tensor = self.transformer(self._places[ids]).last_hidden_state
        return hidden

    @torch.no_grad()
    def pad_alike(self, length: int) -> None:
        """Give the positions from ``length`` on, which were not trained, the embedding of the last trained one."""
        positions = _embeddings(self.transformer).position_embedding.weight
        positions[length:] = positions[length - 1]

    @torch.no_grad()
    def take(self, whole: Any) -> None:
        """Load the weights of a ``CLIPTextModel`` that :meth:`whole` made."""
        state = {key: value for key, value in whole.state_dict().items() if "token_embedding" not in key}
        self.transformer.load_state_dict(state, strict=False)
        self.table.weight.copy_(_embeddings(whole).token_embedding.weight[self.used])

    def whole(self) -> Any:
        """A ``CLIPTextModel`` with the whole vocabulary and these weights."""
        from transformers import CLIPTextConfig, CLIPTextModel

        model = CLIPTextModel(CLIPTextConfig(**text_config("quick_gelu", WIDTH, LAYERS)))
        state = {key: value for key, value in self.transformer.state_dict().items() if "token_embedding" not in key}
        table = self._table.clone()
        table[self.used] = self.table.weight.detach().cpu()
        key = next(key for key in model.state_dict() if "token_embedding" in key)
        model.load_state_dict({**state, key: table}, strict=False)
        return model.eval()


class Tokens:
    """Tokenizes captions, with padding as in Stable Diffusion."""

    def __init__(self) -> None:
        self.tokenizer: Any = clip_tokenizer()
        self._ids: dict[str, list[int]] = {}

    def __call__(self, texts: Sequence[str], length: int = MAX_TOKENS) -> Tensor:
        """``(N, length)`` ids: start, words, end, and padding with the end token."""
        end = self.tokenizer.eos_token_id
        rows = np.full((len(texts), length), end, np.int64)
        for row, text in zip(rows, texts, strict=True):
            ids = self.words(text)[: length - 2]
            row[0] = self.tokenizer.bos_token_id
            row[1 : 1 + len(ids)] = ids
        return torch.from_numpy(rows)

    def used(self, texts: Iterable[str]) -> list[int]:
        """All ids of texts, with start and end, in order."""
        ids = {number for text in texts for number in self.words(text)}
        return sorted({*ids, self.tokenizer.bos_token_id, self.tokenizer.eos_token_id})

    def words(self, text: str) -> list[int]:
        """Ids of a text without start and end. Words are looked up one by one, as CLIP's tokenizer does."""
        ids: list[int] = []
        for word in text.replace(",", " , ").split():
            if word not in self._ids:
                self._ids[word] = self.tokenizer(word, add_special_tokens=False).input_ids
            ids += self._ids[word]
        return ids


def save_text(path: Path, model: WorldText, facts: dict[str, Any]) -> None:
    """Write a trained encoder with its token ids, for :func:`load_text`.

    Raises:
        FileError: The file cannot be written.
    """
    save_state(path, {"model": model}, (), {**facts, "used": model.used})


def load_text(path: Path) -> WorldText:
    """Read an encoder that :func:`save_text` wrote.

    Raises:
        FileError: There is no such file.
    """
    if not path.is_file():
        raise FileError(f"There is no text encoder at {path}: run `python -m miniature.training.text_pretraining`.")
    model = WorldText(read_facts(path)["used"])
    load_state(path, {"model": model})
    return model.eval()


def _embeddings(model: Any) -> Any:
    return model.text_model.embeddings if hasattr(model, "text_model") else model.embeddings
