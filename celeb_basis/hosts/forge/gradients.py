"""Forge's weights under gradients: it loads them in torch's inference mode, whose tensors no gradient may pass.

They are not copied. Each gets a second name, an ordinary tensor over the same memory, which stands in its place meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from celeb_basis.hosts.a1111.modules import replaced
from celeb_basis.hosts.forge.modules import backend_module
from celeb_basis.hosts.torch_utils import made_in_inference_mode, of_the_kind

if TYPE_CHECKING:
    import torch


def ordinary(tensor: torch.Tensor) -> torch.Tensor:
    """``tensor`` itself, or an ordinary tensor over the same memory if it was made in inference mode."""
    import torch

    if not tensor.is_inference():
        return tensor
    with torch.inference_mode(False), torch.no_grad():
        alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        return alias.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())


class NormalWeights:
    """Parameters and buffers of some modules, between :meth:`enable` and :meth:`restore` as ordinary tensors."""

    def __init__(self, modules: Iterable[torch.nn.Module]) -> None:
        self._modules = list(modules)
        self._exchanged: list[tuple[dict[str, Any], str, Any]] = []

    def enable(self) -> None:
        """Exchange what is not ordinary yet."""
        import torch

        with torch.inference_mode(False):
            for held, name, tensor in made_in_inference_mode(self._modules):
                self._exchanged.append((held, name, tensor))
                held[name] = of_the_kind(tensor, ordinary(tensor.data))

    def restore(self) -> None:
        """Everything that was exchanged as it was."""
        while self._exchanged:
            held, name, tensor = self._exchanged.pop()
            held[name] = tensor


# FOLDED: A denoiser of Forge's whose backward pass is right: its own code is written to be run forward only.


@contextmanager
def right_backward(unet: Any, *, checkpointing: bool) -> Iterator[None]:
    """Gradients through ``unet``; with ``checkpointing``, blocks compute again in the backward pass what they forgot.

    A transformer block adds to its input in place, which its normalisations and a checkpoint still need as it was: they
    are given copies. Nothing that is computed changes.
    """
    kinds = backend_module("nn.unet")
    with ExitStack() as stack:
        for part in unet.modules():
            if isinstance(part, kinds.BasicTransformerBlock):
                for norm in (part.norm1, part.norm2):
                    stack.enter_context(replaced(norm, forward=_on_a_copy(norm.forward)))
                if checkpointing:
                    stack.enter_context(replaced(part, forward=_forgetting(_on_a_copy(part.forward))))
            elif checkpointing and isinstance(part, kinds.ResBlock):
                stack.enter_context(replaced(part, forward=_forgetting(part.forward)))
        yield


def _on_a_copy(forward: Callable[..., Any]) -> Callable[..., Any]:
    def forward_a_copy(x: Any, *arguments: Any, **options: Any) -> Any:
        return forward(x.clone(), *arguments, **options)

    return forward_a_copy


def _forgetting(forward: Callable[..., Any]) -> Callable[..., Any]:
    from torch.utils.checkpoint import checkpoint

    def forward_and_forget(*arguments: Any, **options: Any) -> Any:
        # Nothing in a denoiser that evaluates is random, so the random state need not be kept.
        return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=False, **options)

    return forward_and_forget
