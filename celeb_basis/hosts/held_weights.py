"""Frozen weights held in another dtype while a checkpoint is trained through, and exactly as they were afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import torch

from celeb_basis.diffusion_model import Precision
from celeb_basis.errors import HostError

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The dtype of each precision."""

TargetDtype: TypeAlias = "Callable[[torch.nn.Module, torch.Tensor], torch.dtype]"
"""The dtype that a module's own parameter or buffer is to be held in."""

# What torch's autocast computes in half precision; it would cast their weights again at every call, because it remembers
# casts only of weights that ask for gradients.
_CAST_BY_AUTOCAST = (
    torch.nn.Linear,
    *(torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d),
    *(torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d),
)


def all_in(dtype: torch.dtype) -> TargetDtype:
    """Everything in ``dtype``, as a checkpoint that was loaded in it."""
    return lambda _module, _tensor: dtype


def ready_for_autocast(dtype: torch.dtype) -> TargetDtype:
    """What autocast would cast in ``dtype``, the rest (norms above all) in float32: autocast then copies no weight.

    The results are those of autocast over float32 weights, bit for bit.
    """
    return lambda module, _tensor: dtype if isinstance(module, _CAST_BY_AUTOCAST) else torch.float32


class HeldWeights:
    """Weights of some modules in other dtypes between :meth:`enable` and :meth:`restore`, cast once and one by one.

    Rounding back is exact for weights that were made wider. Of all others the original is kept: where it is, or in main
    memory if it was on another device, so that the device never holds a weight twice.

    Args:
        modules: The modules; their weights must be frozen. Weights that several of them share stay shared.
        target: The dtype of each floating-point parameter and buffer.
    """

    def __init__(self, modules: Iterable[torch.nn.Module], target: TargetDtype) -> None:
        self._modules, self._target = list(modules), target
        self._cast: list[tuple[torch.Tensor, torch.dtype, torch.Tensor | None]] = []

    def enable(self) -> None:
        """Cast what is not in its dtype yet."""
        for tensor, dtype in self._wanted():
            data = tensor.data
            exact = dtype.itemsize > data.dtype.itemsize
            self._cast.append((tensor, data.dtype, None if exact else data.cpu()))
            tensor.data = data.to(dtype)

    def restore(self) -> None:
        """Every weight as it was, on the device that it is on now."""
        while self._cast:
            tensor, dtype, original = self._cast.pop()
            tensor.data = tensor.data.to(dtype) if original is None else original.to(tensor.device)

    def _wanted(self) -> Iterator[tuple[torch.Tensor, torch.dtype]]:
        seen = {id(tensor) for tensor, _, _ in self._cast}
        for part in (part for module in self._modules for part in module.modules()):
            for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
                if id(tensor) in seen or not tensor.is_floating_point():
                    continue
                seen.add(id(tensor))
                if tensor.dtype != (dtype := self._target(part, tensor)):
                    yield tensor, dtype


@contextmanager
def held(modules: Iterable[torch.nn.Module], target: TargetDtype) -> Iterator[HeldWeights]:
    """:class:`HeldWeights` inside a context."""
    weights = HeldWeights(modules, target)
    try:
        weights.enable()
        yield weights
    finally:
        weights.restore()


def check_computes_in(device: torch.device, dtype: torch.dtype) -> None:
    """Check that torch multiplies and convolves in ``dtype`` on ``device``.

    Raises:
        HostError: If it does not.
    """
    try:
        image = torch.zeros(1, 1, 1, 1, device=device, dtype=dtype)
        torch.nn.functional.conv2d(image, image)
        torch.nn.functional.linear(image, image[0, 0])
    except (RuntimeError, TypeError) as error:
        raise HostError(
            f"torch {torch.__version__} cannot compute in {str(dtype).removeprefix('torch.')} on the device {device}: set "
            "precision to fp32, or to auto."
        ) from error
