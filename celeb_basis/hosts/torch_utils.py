"""What torch can and cannot do on a device, whichever version of it a program brings."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from celeb_basis.diffusion_model import DenoiserBlock, MemoryStats
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


# FOLDED: Frozen weights in the right precision for a while, and everything as it was afterwards; for every torch
# FOLDED: model.


@contextmanager
def frozen(modules: Iterable[torch.nn.Module]) -> Iterator[None]:
    """No parameter asks for gradients, every module is in evaluation mode."""
    modules = list(modules)
    parameters = [(parameter, parameter.requires_grad) for module in modules for parameter in module.parameters()]
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for parameter, _ in parameters:
            parameter.requires_grad_(False)
        for part, _ in modes:
            part.training = False
        yield
    finally:
        for parameter, required in parameters:
            parameter.requires_grad_(required)
        for part, training in modes:
            part.training = training


@contextmanager
def upcast(modules: Iterable[torch.nn.Module], dtype: torch.dtype) -> Iterator[None]:
    """Hold half-precision weights in the wider ``dtype``. Rounding back on leaving is exact."""
    narrower = [
        (tensor, tensor.dtype)
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
        if tensor.is_floating_point() and tensor.dtype.itemsize < dtype.itemsize
    ]
    try:
        for tensor, _ in narrower:
            tensor.data = tensor.data.to(dtype)
        yield
    finally:
        for tensor, before in narrower:
            tensor.data = tensor.data.to(before)


# FOLDED: Ordinary tensors in the place of those that were made in torch's inference mode, in which some hosts load
# FOLDED: and draw.


def made_in_inference_mode(modules: Iterable[torch.nn.Module]) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """Parameters and buffers that no gradient may pass: what holds each, under which name, and the tensor.

    They may be exchanged while this goes on.
    """
    for part in (part for module in modules for part in module.modules()):
        for held in (part._parameters, part._buffers):
            for name, tensor in held.items():
                if tensor is not None and tensor.is_inference():
                    yield held, name, tensor


def of_the_kind(tensor: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """``values``, as a parameter if ``tensor`` is one."""
    import torch

    return torch.nn.Parameter(values, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else values


def clone_inference_tensors(modules: Iterable[torch.nn.Module]) -> None:
    """What was made in inference mode is exchanged for ordinary copies, one after the other.

    The values are the same; a tensor that several modules share stays shared.
    """
    import torch

    made: dict[int, torch.Tensor] = {}
    with torch.inference_mode(False), torch.no_grad():
        for held, name, tensor in made_in_inference_mode(modules):
            if id(tensor) not in made:
                made[id(tensor)] = of_the_kind(tensor, tensor.clone())
            held[name] = made[id(tensor)]


@contextmanager
def ordinary_tensors() -> Iterator[None]:
    """What is read and kept meanwhile is for other uses than drawing as well."""
    import torch

    with torch.inference_mode(False), torch.no_grad():
        yield


# FOLDED: Convolutions' weights in the order in which the CPU computes with them, for a while.


class ChannelsLast:
    """Holds the weights of 2D convolutions in torch's ``channels_last`` order: the same numbers, other strides.

    A denoiser's attention hands its convolutions pictures in this order; torch's CPU convolutions then bring the whole
    weight into it too, at every call, forward and backward. For full-size Stable Diffusion 1.5 at 256x256 that is a
    fifth of a training step. Weights are exchanged one after the other: there is never a second copy of the model.
    """

    def __init__(self, modules: Iterable[torch.nn.Module]) -> None:
        self._modules = list(modules)
        self._exchanged: list[torch.Tensor] = []

    def enable(self) -> None:
        """Exchange what is not in this order yet."""
        import torch

        for weight in self._weights():
            self._exchanged.append(weight)
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)

    def restore(self) -> None:
        """Every exchanged weight's strides as they were."""
        import torch

        while self._exchanged:
            weight = self._exchanged.pop()
            # Not contiguous(): where both orders are the same bytes, it would leave the other strides.
            weight.data = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device).copy_(weight.data)

    def _weights(self) -> list[torch.Tensor]:
        import torch

        found = {
            id(part.weight): part.weight
            for module in self._modules
            for part in module.modules()
            if isinstance(part, torch.nn.Conv2d) and part.weight.is_contiguous()
        }
        exchanged = {id(weight) for weight in self._exchanged}
        return [weight for key, weight in found.items() if key not in exchanged]


# FOLDED: What an adapter tells of memory: its denoiser's blocks, its weights, and what is free on its device.

# The original code and diffusers, which name the same parts differently.
_WAYS = (("input_blocks", "middle_block", "output_blocks"), ("down_blocks", "mid_block", "up_blocks"))
_RESNETS = frozenset({"ResBlock", "ResnetBlock2D"})
_DOWN = frozenset({"Downsample", "Downsample2D"})
_UP = frozenset({"Upsample", "Upsample2D"})


def memory_stats(
    unet: Any, modules: Iterable[torch.nn.Module], device: torch.device, *, vae_scale_factor: int, keeps_scores: bool
) -> MemoryStats:
    """IndexedIdentity of a UNet of the original code or of diffusers.

    Parameters: ``modules`` are what learning computes with (denoiser and text encoders); ``vae_scale_factor`` is the side in
    pixels of what one place of a latent stands for; ``keeps_scores`` says whether attention keeps its scores for the
    backward pass.
    """
    held = elsewhere = 0
    for module in modules:
        for weight in module.parameters():
            size = weight.numel() * weight.element_size()
            held += size
            elsewhere += 0 if weight.device.type == device.type else size
    return MemoryStats(denoiser_blocks(unet), vae_scale_factor, held, elsewhere, keeps_scores, free_memory(device))


def denoiser_blocks(unet: Any) -> tuple[DenoiserBlock, ...]:
    """The UNet's residual and transformer blocks in the order in which they compute."""
    names = next(names for names in _WAYS if hasattr(unet, names[0]))
    blocks = []
    scale = 1
    for part in (part for name in names for part in getattr(unet, name).modules()):
        kind = {cls.__name__ for cls in type(part).__mro__}
        if kind & _RESNETS:
            # ``channels`` is ldm's name for what comes in.
            before = getattr(part, "in_channels", None) or part.channels
            blocks.append(DenoiserBlock("resnet", scale, int(before), int(part.out_channels)))
        elif "BasicTransformerBlock" in kind:
            width = int(part.norm1.normalized_shape[0])
            blocks.append(DenoiserBlock("transformer", scale, width, width, int(part.attn1.heads)))
        elif kind & _DOWN:
            scale *= 2
        elif kind & _UP:
            scale //= 2
    return tuple(blocks)


def free_memory(device: torch.device) -> int | None:
    """Bytes that could still be taken on ``device``; ``None`` where nobody can tell."""
    import torch

    if device.type == "cuda":
        device = numbered(device)  # else torch 2.1 would not tell
        free, _ = torch.cuda.mem_get_info(device)
        # What torch holds in reserve is free for torch.
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        if not hasattr(torch.mps, "recommended_max_memory"):  # torch 2.1 lacks it
            return None
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    if device.type != "cpu":
        return None
    try:
        import psutil  # type: ignore[import-untyped]
    except ImportError:
        return None
    return int(psutil.virtual_memory().available)


# FOLDED: The random state of the whole process, which belongs to the host's user.


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Python's, NumPy's and torch's random generators go on afterwards as if nothing had been drawn."""
    import numpy as np
    import torch

    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    used = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda = torch.cuda.get_rng_state_all() if used else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
