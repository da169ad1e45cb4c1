"""Computing in the precision that was asked for, by Forge's own means: its layers can cast their weights as they go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import HostError
from celeb_basis.hosts.webui.shim import replaced

if TYPE_CHECKING:
    import torch

    from celeb_basis.hosts.base import Precision


@contextmanager
def in_precision(module: Any, precision: Precision, device: torch.device) -> Iterator[torch.dtype]:
    """``module`` ready to compute in ``precision``; yields what its input has to be cast to.

    Raises: :class:`HostError` for fp16 on the CPU.
    """
    import torch

    wanted = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    if wanted == torch.float16 and device.type == "cpu":
        raise HostError("The CPU cannot compute in fp16: set precision to fp32 or bf16.")
    with casting(module, wanted):
        yield wanted


@contextmanager
def casting(module: Any, dtype: torch.dtype) -> Iterator[None]:
    """Layers of ``module`` cast weights that are held in another dtype than ``dtype`` to that of their input."""
    with ExitStack() as stack:
        for part in module.modules():
            casts = getattr(part, "parameters_manual_cast", None)
            if casts is False and any(weight.dtype != dtype for weight in part.parameters(recurse=False)):
                stack.enter_context(replaced(part, parameters_manual_cast=True))
        yield
