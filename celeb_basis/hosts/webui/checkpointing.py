"""Gradient checkpointing in the denoiser of ``ldm`` and ``sgm`` alike, one block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from celeb_basis.hosts.webui.model import unet_of
from celeb_basis.hosts.webui.shim import replaced

_BLOCKS = ("ResBlock", "AttentionBlock", "BasicTransformerBlock")
# Switches of the original code's own checkpointing, which fails as soon as the weights ask for no gradients.
_OWN = ("use_checkpoint", "checkpoint")


@contextmanager
def checkpointed(model: Any, wanted: bool) -> Iterator[None]:
    """Blocks compute again in the backward pass what they forgot, if ``wanted``; never by the original code's own way."""
    with ExitStack() as stack:
        for part in unet_of(model).modules():
            own = {name: False for name in _OWN if vars(part).get(name) is True}
            stack.enter_context(replaced(part, **own))
            if wanted and any(kind.__name__ in _BLOCKS for kind in type(part).__mro__):
                stack.enter_context(replaced(part, forward=_forgetting(part.forward)))
        yield


def _forgetting(forward: Callable[..., Any]) -> Callable[..., Any]:
    from torch.utils.checkpoint import checkpoint

    def forward_and_forget(*arguments: Any, **options: Any) -> Any:
        # Nothing in a denoiser that evaluates is random, so the random state need not be kept.
        return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=False, **options)

    return forward_and_forget
