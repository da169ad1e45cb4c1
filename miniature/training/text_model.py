"""The tokens of the world of generated faces. The encoder itself is :mod:`miniature.trainer.text_model`."""

from __future__ import annotations

from collections.abc import Iterable

from miniature.trainer.text_model import LAYERS, TOKEN_STD, WIDTH, Tokens, WorldText
from miniature.training import captions, scenes

__all__ = ["LAYERS", "TOKEN_STD", "WIDTH", "Tokens", "WorldText", "used_tokens"]


def used_tokens(tokens: Tokens, names: Iterable[str]) -> list[int]:
    """All ids that can occur in captions of the world."""
    phrases = [*names, *captions.all_phrases(), *scenes.PLAIN]
    ids = {place for phrase in phrases for place in tokens.words(phrase)}
    special = [tokens.tokenizer.bos_token_id, tokens.tokenizer.eos_token_id]
    return sorted({*ids, *special})
