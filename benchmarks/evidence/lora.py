"""A small LoRA (Hu et al. 2021) as a contestant: low-rank additions to the denoiser's attention, by forward hooks.

Neither peft nor diffusers' processors are needed for four linear layers a block. The person's word is a rare one, fixed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from celeb_basis.training.trainer import Batch, Trainer

RANK = 4
RARE = ("sks", "zwx", "olis", "phol", "vdb", "gwt", "ohwx", "kdj", "xqz", "bnha")
"""Words that mean next to nothing, one for each person of a group."""

_LAYERS = ("to_q", "to_k", "to_v", "to_out.0")


class LowRank(nn.Module):
    """The additions of all attention layers of a denoiser; nothing at first, since ``up`` starts at zero."""

    def __init__(self, denoiser: nn.Module, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.layers = [
            module
            for name, module in denoiser.named_modules()
            if isinstance(module, nn.Linear) and name.endswith(_LAYERS)
        ]
        self.down = nn.ParameterList(
            nn.Parameter(torch.randn(rank, layer.in_features, generator=generator) / layer.in_features**0.5)
            for layer in self.layers
        )
        self.up = nn.ParameterList(nn.Parameter(torch.zeros(layer.out_features, rank)) for layer in self.layers)

    @contextmanager
    def added(self) -> Iterator[None]:
        """While open, the denoiser computes with the additions."""

        def hook_of(number: int) -> Any:
            def hook(_module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
                added: torch.Tensor = inputs[0] @ self.down[number].T.to(output) @ self.up[number].T.to(output)
                return output + added

            return hook

        handles = [layer.register_forward_hook(hook_of(number)) for number, layer in enumerate(self.layers)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class LoraLearner(Trainer):
    """Trains a :class:`LowRank` with the project's own loop; coefficients are the rare words' own token vectors.

    Needs the free space, whose coefficients are token vectors. :meth:`use` says what is trained, before the first step.
    """

    def use(self, low_rank: LowRank) -> None:
        """Train these additions instead of coefficients."""
        self.module = low_rank.to(self.model.device)  # type: ignore[assignment]
        settings = self.settings
        self.optimizer = torch.optim.AdamW(
            low_rank.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        tables = [encoder.token_table() for encoder in self.model.text_encoders]
        rows = []
        for number in range(len(self.pool.people)):
            ids = [encoder.tokenize([RARE[number % len(RARE)]])[0] for encoder in self.model.text_encoders]
            fixed = [
                table[torch.tensor((one * 2)[: self.shape.positions])] for table, one in zip(tables, ids, strict=True)
            ]
            rows.append(torch.stack(fixed).float())
        self._words = torch.stack(rows).to(self.model.device)

    def coefficients(self, batch: Batch) -> torch.Tensor:
        """``(B, G, E, D)``: fixed."""
        return self._words[batch.people]
