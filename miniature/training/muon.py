"""Muon (Jordan et al. 2024): momentum with every matrix orthogonalized, so that all directions learn equally.

The optimizer in torch accepts matrices only. Most weights here are convolutions, taken as matrices of
``(out, in * taps)``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import Executor
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration, by its authors."""

_ROUNDS = 5
_LIKE_ADAM = 0.2
"""Root mean square of an update of AdamW's, so that the same rates serve (Liu et al. 2025)."""


class Muon(torch.optim.Optimizer):
    """Muon for weights with two dimensions or more; all others need AdamW."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        workers: Executor | None = None,
        half: bool = False,
    ) -> None:
        """``workers`` process the shapes in parallel, else one after the other; ``half`` orthogonalizes in bfloat16."""
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._map: Any = map if workers is None else workers.map
        self._half = half

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every weight that has a gradient; weights of the same shape together."""
        del closure
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    alike[tuple(weight.shape)].append(weight)
            largest_first = sorted(alike.values(), key=lambda weights: -len(weights) * weights[0].numel())
            list(self._map(partial(self._move, group), largest_first))

    @torch.no_grad()
    def _move(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        for weight in weights:
            if "momentum" not in self.state[weight]:
                self.state[weight]["momentum"] = torch.zeros_like(weight)
        momenta = [self.state[weight]["momentum"] for weight in weights]
        gradients: list[Any] = [weight.grad for weight in weights]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])
        wanted = torch.stack([one.flatten(1) for one in ahead])
        updates = orthogonal(wanted.bfloat16()).float() if self._half else orthogonal(wanted)
        size = _LIKE_ADAM * max(updates.shape[1:]) ** 0.5
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        moves = [update.reshape(weight.shape) for weight, update in zip(weights, updates, strict=True)]
        torch._foreach_sub_(weights, moves, alpha=group["lr"] * size)


def orthogonal(matrices: Tensor) -> Tensor:
    """``(N, A, B)`` matrices with the same singular vectors and singular values near 1 (0.7 to 1.2)."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_ROUNDS):
        squared = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(squared, squared, squared, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def split(module: nn.Module, apart: Iterable[str] = ()) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """A module's weights for Muon, and the rest: biases, norms, and everything whose name holds one of ``apart``."""
    ours: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    names = tuple(apart)
    for name, value in module.named_parameters():
        (ours if value.ndim >= 2 and not any(part in name for part in names) else rest).append(value)
    return ours, rest
