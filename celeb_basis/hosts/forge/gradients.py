"""What is changed in Forge's model while it is trained through: weights, casts and the denoiser's forward passes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111.modules import replaced
from celeb_basis.hosts.forge.modules import forge_module
from celeb_basis.hosts.torch_utils import on_a_copy, recomputed

if TYPE_CHECKING:
    from celeb_basis.diffusion_model import Precision

_CASTS = "parameters_manual_cast"
# Where Forge remembers that switch of a layer, if it has put the layer's weights on the CPU for want of room and has it
# cast for that reason.
_CAST_BEFORE = "prev_parameters_manual_cast"


class Casting:
    """Has layers of a module cast weights that are stored in another dtype to the dtype of their input.

    Forge uses the same switch when it loads a module: it is to do that before :meth:`enable`, or after :meth:`restore`.

    Args:
        module: The module.
        dtype: What it computes in.
    """

    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        self._module, self._dtype = module, dtype
        self._switched: list[Any] = []

    def enable(self) -> None:
        """Have layers cast that do not by themselves."""
        for part in self._module.modules():
            casts = getattr(part, _CASTS, None)
            if casts is False and any(weight.dtype != self._dtype for weight in part.parameters(recurse=False)):
                setattr(part, _CASTS, True)
                self._switched.append(part)

    def restore(self) -> None:
        """Every layer as it was, or as Forge will have it again if it has moved the layer's weights since."""
        while self._switched:
            part = self._switched.pop()
            setattr(part, _CAST_BEFORE if hasattr(part, _CAST_BEFORE) else _CASTS, False)


@contextmanager
def casting(module: Any, dtype: torch.dtype) -> Iterator[None]:
    """:class:`Casting` inside a context."""
    layers = Casting(module, dtype)
    try:
        layers.enable()
        yield
    finally:
        layers.restore()


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype of a precision.

    Raises:
        HostError: For fp16 on the CPU.
    """
    wanted = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    if wanted == torch.float16 and device.type == "cpu":
        raise HostError("The CPU cannot compute in fp16: set precision to fp32 or bf16.")
    return wanted


@contextmanager
def gradients_through(unet: Any, *, checkpointing: bool) -> Iterator[None]:
    """A denoiser whose backward pass is right: Forge's own code is written to be run forward only.

    A transformer block adds to its input in place, which its normalizations and a checkpoint still need as it was: they
    are given copies. Nothing that is computed changes.

    Args:
        unet: Forge's denoiser.
        checkpointing: Whether blocks compute their activations again in the backward pass.
    """
    kinds = forge_module("backend.nn.unet")
    with ExitStack() as stack:
        for part in unet.modules():
            if isinstance(part, kinds.BasicTransformerBlock):
                for norm in (part.norm1, part.norm2):
                    stack.enter_context(replaced(norm, forward=on_a_copy(norm.forward)))
                if checkpointing:
                    stack.enter_context(replaced(part, forward=recomputed(on_a_copy(part.forward))))
            elif checkpointing and isinstance(part, kinds.ResBlock):
                stack.enter_context(replaced(part, forward=recomputed(part.forward)))
        yield
