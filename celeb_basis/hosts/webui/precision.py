"""Computing in the precision that was asked for, by the host's own means where it already does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from celeb_basis.errors import HostError
from celeb_basis.hosts.devices import check_autocast
from celeb_basis.hosts.freezing import widened
from celeb_basis.hosts.webui.model import text_part, unet_of, weights_dtype
from celeb_basis.hosts.webui.shim import host_module, replaced

if TYPE_CHECKING:
    import torch

    from celeb_basis.hosts.base import Precision

_Context: TypeAlias = "Callable[[], AbstractContextManager[Any]]"


@dataclass(frozen=True)
class Computing:
    """Makers of the contexts that forward passes run in."""

    text: _Context
    denoiser: _Context

    @contextmanager
    def blocks(self) -> Iterator[None]:
        """What the denoiser's blocks run in: the host casts once more as it hands them their input."""
        with self.denoiser(), _autocast():
            yield


def _autocast() -> AbstractContextManager[Any]:
    context: AbstractContextManager[Any] = host_module("devices").autocast()
    return context


def _sampling() -> AbstractContextManager[Any]:
    """With ``--upcast-sampling`` the host's denoiser casts by itself."""
    devices = host_module("devices")
    context: AbstractContextManager[Any] = (
        devices.without_autocast() if devices.unet_needs_upcast else devices.autocast()
    )
    return context


AS_THE_HOST = Computing(text=_autocast, denoiser=_sampling)
"""What the host itself encodes prompts and samples in."""


@contextmanager
def in_precision(model: Any, precision: Precision) -> Iterator[Computing]:
    """Text encoders and denoiser ready to compute in ``precision``; their weights exactly as they were afterwards.

    In the precision of the weights themselves, the host's own autocast serves. Weights that are narrower than what is
    asked for are widened in their place, one after the other; there is never a second copy of the model.

    Raises: :class:`HostError` for fp16 on the CPU, or what torch cannot compute in on another device.
    """
    import torch

    wanted = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    devices = host_module("devices")
    if wanted == torch.float16 and devices.device.type == "cpu":
        raise HostError("The CPU cannot compute in fp16: set precision to fp32 or bf16.")
    held = weights_dtype(model)
    if held == wanted:
        yield AS_THE_HOST
        return
    with ExitStack() as stack:
        if held != torch.float32:
            wide = _wide_enough(held, wanted)
            stack.enter_context(widened([model.model, text_part(model)], wide))
            stack.enter_context(_host_believes(model, wide))
        if wanted == torch.float32:
            yield Computing(nullcontext, nullcontext)
            return
        device = devices.device
        check_autocast(device, wanted)

        def autocast() -> AbstractContextManager[Any]:
            return torch.autocast(device.type, dtype=wanted)

        # In float32 the text encoders' own gradients stay exact, and OpenCLIP's masks would not meet a half-precision
        # query; they are a small part of the work.
        in_float32 = weights_dtype(model) == torch.float32
        yield Computing(nullcontext if in_float32 else autocast, autocast)


def _wide_enough(held: torch.dtype, wanted: torch.dtype) -> torch.dtype:
    """Between the two half precisions there is no way but float32, from which autocast starts."""
    import torch

    return wanted if held.itemsize < wanted.itemsize else torch.float32


@contextmanager
def _host_believes(model: Any, dtype: torch.dtype) -> Iterator[None]:
    """The host casts what enters the denoiser to the dtype that it remembers of its weights."""
    devices = host_module("devices")
    remembered = {
        "dtype": dtype,
        "dtype_unet": dtype,
        "dtype_inference": dtype,
        "unet_needs_upcast": False,
        "fp8": False,
        "force_fp16": False,
    }
    with replaced(devices, **remembered), replaced(unet_of(model), dtype=dtype):
        yield
