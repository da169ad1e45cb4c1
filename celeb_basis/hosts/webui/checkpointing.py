"""Gradient checkpointing in the denoiser of ``ldm`` and ``sgm`` alike, one block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

from celeb_basis.hosts.webui.model import unet_of
from celeb_basis.hosts.webui.shim import replaced

_BLOCKS = ("ResBlock", "AttentionBlock", "BasicTransformerBlock")
# Switches of the original code's own checkpointing, which fails as soon as the weights ask for no gradients.
_OWN = ("use_checkpoint", "checkpoint")


@contextmanager
def checkpointed(model: Any, wanted: bool, computing: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
    """Blocks compute again in the backward pass what they forgot, if ``wanted``; never by the original code's own way.

    Parameters: ``computing`` makes the context that blocks run in; the backward pass is run outside of it.
    """
    with ExitStack() as stack:
        for part in unet_of(model).modules():
            own = {name: False for name in _OWN if vars(part).get(name) is True}
            stack.enter_context(replaced(part, **own))
            if wanted and any(kind.__name__ in _BLOCKS for kind in type(part).__mro__):
                stack.enter_context(replaced(part, forward=_forgetting(part.forward, computing)))
        yield


def _forgetting(
    forward: Callable[..., Any], computing: Callable[[], AbstractContextManager[Any]]
) -> Callable[..., Any]:
    from torch.utils.checkpoint import checkpoint

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), computing()

    # Nothing in a denoiser that evaluates is random, so the random state need not be kept. torch itself knows of no context
    # but its own autocast; the host has one that changes torch's layers.
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False, "context_fn": contexts}

    def forward_and_forget(*arguments: Any, **named: Any) -> Any:
        return checkpoint(forward, *arguments, **options, **named)

    return forward_and_forget
