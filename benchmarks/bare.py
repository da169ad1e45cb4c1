"""The least that any training step must do: forward and backward of a frozen text encoder and UNet, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional


@dataclass(frozen=True)
class BareBatch:
    """All inputs of a step, ready: token ids, places of the vectors, noise already added."""

    ids: torch.Tensor
    """``(B, 77)``."""
    places: tuple[torch.Tensor, torch.Tensor]
    """Rows and columns of ``ids`` that the vectors stand at, in the vectors' order."""
    vectors: torch.Tensor
    """``(B * E, D)``, the leaf that asks for gradients."""
    noisy: torch.Tensor
    timesteps: torch.Tensor
    target: torch.Tensor


class BareStep:
    """Calls the modules of transformers and diffusers directly; their weights must be frozen."""

    def __init__(self, pipeline: Any) -> None:
        self._text_encoder = pipeline.text_encoder
        self._tokenizer = pipeline.tokenizer
        self._unet = pipeline.unet

    def tokenized(self, prompts: Sequence[str], word: str, vectors: int) -> tuple[torch.Tensor, Any]:
        """Token ids of prompts in which ``word.format(i)`` stands once in prompt ``i``, and where its vectors go."""
        rows: list[int] = []
        columns: list[int] = []
        all_ids: list[list[int]] = []
        for row, prompt in enumerate(prompts):
            before, after = (
                self._tokenizer(part, add_special_tokens=False).input_ids for part in prompt.split(word.format(row))
            )
            ids = [self._tokenizer.bos_token_id, *before, *[0] * vectors, *after, self._tokenizer.eos_token_id]
            rows += [row] * vectors
            columns += range(1 + len(before), 1 + len(before) + vectors)
            all_ids.append(ids + [self._tokenizer.pad_token_id] * (77 - len(ids)))
        return torch.tensor(all_ids), (torch.tensor(rows), torch.tensor(columns))

    def __call__(self, batch: BareBatch) -> float:
        """The loss; the gradient is left in ``batch.vectors.grad``."""
        table = self._text_encoder.get_input_embeddings()
        hook = table.register_forward_hook(lambda _m, _i, embedded: embedded.index_put(batch.places, batch.vectors))
        try:
            states = self._text_encoder(batch.ids)[0]
        finally:
            hook.remove()
        predicted = self._unet(batch.noisy, batch.timesteps, encoder_hidden_states=states, return_dict=False)[0]
        loss = functional.mse_loss(predicted, batch.target)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    def drawing(self, batch: BareBatch) -> None:
        """A pass of the UNet as a sampler makes it: prompts are encoded, and nobody asks for gradients."""
        with torch.no_grad():
            states = torch.zeros(len(batch.noisy), 77, self._unet.config.cross_attention_dim)
            self._unet(batch.noisy, batch.timesteps, encoder_hidden_states=states, return_dict=False)


def random_batch(step: BareStep, side: int, width: int) -> BareBatch:
    """A batch of one picture of ``side`` pixels, from random numbers alone."""
    generator = torch.Generator().manual_seed(0)
    ids, places = step.tokenized(["a photo of the face of <0> person"], "<{}>", 2)
    latents = (1, 4, side // 8, side // 8)
    return BareBatch(
        ids=ids,
        places=places,
        vectors=(0.02 * torch.randn(2, width, generator=generator)).requires_grad_(),
        noisy=torch.randn(latents, generator=generator),
        timesteps=torch.randint(1000, (1,), generator=generator),
        target=torch.randn(latents, generator=generator),
    )
