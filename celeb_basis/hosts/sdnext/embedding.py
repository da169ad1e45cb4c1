"""Vectors as tokens of SD.Next's tokenizers and text encoders, put there by SD.Next's own functions for embeddings.

So a prompt with them is encoded bit for bit as with the same vectors in SD.Next's folder of embeddings, by each of its
ways to read prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import HostError
from celeb_basis.hosts.sdnext.shim import sdnext_module

if TYPE_CHECKING:
    import torch


def put_token(token: str, vectors: Sequence[torch.Tensor]) -> None:
    """Have the loaded checkpoint read ``token`` in a prompt as ``vectors``, one ``(E, D_i)`` tensor a text encoder.

    Of a token that is there already nothing is changed.

    Raises: :class:`HostError` for vectors that no text encoder takes.
    """
    inversion = sdnext_module("textual_inversion")
    encoders, tokenizers, widths = inversion.get_text_encoders()
    for of_encoder in vectors:
        if of_encoder.shape[1] not in widths:
            raise HostError(
                f"No text encoder of the loaded checkpoint takes vectors of {of_encoder.shape[1]} numbers: choose a "
                "checkpoint of the family that the person was learned on."
            )
    places = [(encoders[widths.index(one.shape[1])], tokenizers[widths.index(one.shape[1])], one) for one in vectors]
    tokens = [token if number == 0 else f"{token}_{number}" for number in range(len(vectors[0]))]
    if all(_is_there(*place, tokens) for place in places):
        return
    embedding = inversion.Embedding(vec=list(vectors), name=token, filename=None)
    embedding.tokens = tokens
    embedding.vector_sizes = [int(one.shape[1]) for one in vectors]
    inversion.insert_tokens([embedding], tokenizers)
    for encoder, tokenizer in zip(encoders, tokenizers, strict=True):
        rows = encoder.get_input_embeddings().weight.shape[0]
        if rows < len(tokenizer):
            # Else new rows would be drawn like the old ones, which takes seconds; they are written over at once.
            encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    inversion.insert_vectors(embedding, tokenizers, encoders, widths)


def _is_there(encoder: Any, tokenizer: Any, vectors: torch.Tensor, tokens: Sequence[str]) -> bool:
    import torch

    known = tokenizer.added_tokens_encoder
    table = encoder.get_input_embeddings().weight
    ids = [known.get(token, len(table)) for token in tokens]
    return max(ids) < len(table) and torch.equal(table[ids].detach(), vectors.to(table))
