"""Training states, written atomically and read without unpickling, so that a run may be killed at any moment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from celeb_basis.files import atomic_path


def save_state(
    path: Path, modules: dict[str, nn.Module], optimizers: Sequence[torch.optim.Optimizer], facts: dict[str, Any]
) -> None:
    """Write the modules' weights, the optimizers' states and JSON-ready facts, such as the step, as one file.

    Raises:
        FileError: The file cannot be written.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, module in modules.items():
        tensors |= {f"{name}/{key}": _plain(value) for key, value in module.state_dict().items()}
    for order, optimizer in enumerate(optimizers):
        for number, values in optimizer.state_dict()["state"].items():
            prefix = f"optimizer/{order}/{number}"
            tensors |= {f"{prefix}/{key}": _plain(torch.as_tensor(value)) for key, value in values.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, str(temporary), metadata={"facts": json.dumps(facts)})


def _plain(value: torch.Tensor) -> torch.Tensor:
    """A copy that shares no memory, in the one memory layout that the format supports."""
    return value.detach().clone(memory_format=torch.contiguous_format)


def load_state(
    path: Path, modules: dict[str, nn.Module], optimizers: Sequence[torch.optim.Optimizer] = ()
) -> dict[str, Any]:
    """Load a state that :func:`save_state` wrote into the modules and the optimizers, and return the facts."""
    facts = read_facts(path)
    with safe_open(str(path), "pt") as stored:
        keys = list(stored.keys())
        for name, module in modules.items():
            prefix = f"{name}/"
            module.load_state_dict(
                {key[len(prefix) :]: stored.get_tensor(key) for key in keys if key.startswith(prefix)}
            )
        for order, optimizer in enumerate(optimizers):
            state: dict[int, dict[str, torch.Tensor]] = {}
            for key in keys:
                if key.startswith(f"optimizer/{order}/"):
                    _, _, number, value = key.split("/")
                    state.setdefault(int(number), {})[value] = stored.get_tensor(key)
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return facts


def read_facts(path: Path) -> dict[str, Any]:
    """The facts of a state that :func:`save_state` wrote, without its weights."""
    with safe_open(str(path), "pt") as stored:
        facts: dict[str, Any] = json.loads(stored.metadata()["facts"])
    return facts


@torch.no_grad()
def follow(average: nn.Module, module: nn.Module, decay: float) -> None:
    """Update an exponential moving average of a module's weights by one step."""
    ours = [value.detach() for value in average.parameters()]
    torch._foreach_lerp_(ours, [value.detach() for value in module.parameters()], 1 - decay)
