"""Computing in the precision that was asked for, by Forge's own means: its layers can cast their weights as they go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import HostError

if TYPE_CHECKING:
    import torch

    from celeb_basis.hosts.base import Precision


_CASTS = "parameters_manual_cast"
# Forge's memory of it, where it has put a layer's weights on the CPU for want of room and has it cast for that reason.
_CAST_BEFORE = "prev_parameters_manual_cast"


def dtype_of(precision: Precision, device: torch.device) -> torch.dtype:
    """What ``precision`` means.

    Raises: :class:`HostError` for fp16 on the CPU.
    """
    import torch

    wanted = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    if wanted == torch.float16 and device.type == "cpu":
        raise HostError("The CPU cannot compute in fp16: set precision to fp32 or bf16.")
    return wanted


class Casting:
    """Has layers of ``module`` cast weights that are held in another dtype than ``dtype`` to that of their input.

    Forge uses the same switch when it loads a module: it is to do that before :meth:`switch_on`, or after :meth:`put_back`.
    """

    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        self._module, self._dtype = module, dtype
        self._switched: list[Any] = []

    def switch_on(self) -> None:
        """Layers that do not cast by themselves do."""
        for part in self._module.modules():
            casts = getattr(part, _CASTS, None)
            if casts is False and any(weight.dtype != self._dtype for weight in part.parameters(recurse=False)):
                setattr(part, _CASTS, True)
                self._switched.append(part)

    def put_back(self) -> None:
        """Every layer as it was, or as Forge will have it again if it moved the layer's weights meanwhile."""
        while self._switched:
            part = self._switched.pop()
            setattr(part, _CAST_BEFORE if hasattr(part, _CAST_BEFORE) else _CASTS, False)


@contextmanager
def casting(module: Any, dtype: torch.dtype) -> Iterator[None]:
    """:class:`Casting` for a while."""
    cast = Casting(module, dtype)
    try:
        cast.switch_on()
        yield
    finally:
        cast.put_back()
