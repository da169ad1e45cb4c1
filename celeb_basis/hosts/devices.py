"""What torch can and cannot do on a device, whichever version of it a program brings."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import HostError

if TYPE_CHECKING:
    import torch


def numbered(device: torch.device) -> torch.device:
    """``device`` with the number of the graphics card that it means; programs often say ``cuda`` alone.

    Some of torch's functions ask for the number, and devices with and without it are not equal.
    """
    import torch

    return torch.device("cuda", torch.cuda.current_device()) if device == torch.device("cuda") else device


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Autocast switched off on ``device``."""
    import torch

    try:
        return torch.autocast(device.type, enabled=False)
    except RuntimeError:  # torch knows no autocast for such a device, as 2.1 for Apple's: then it is not on
        return nullcontext()


def check_autocast(device: torch.device, dtype: torch.dtype) -> None:
    """Raise :class:`HostError` if torch cannot compute in ``dtype`` with weights of float32 on ``device``."""
    import torch

    try:
        torch.autocast(device.type, dtype=dtype)
    except RuntimeError as error:
        raise HostError(
            f"torch {torch.__version__} cannot compute in {str(dtype).removeprefix('torch.')} on the device {device} with "
            "this checkpoint: set precision to fp32, or to auto."
        ) from error


def torch_attention_keeps_scores(device: torch.device) -> bool:
    """Whether torch's own attention keeps its scores for the backward pass: it has another way on graphics cards only."""
    return device.type in ("cpu", "mps")
