"""A denoiser of Forge's whose backward pass is right: its own code is written to be run forward only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from celeb_basis.hosts.forge.shim import backend_module
from celeb_basis.hosts.webui.shim import replaced


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
