"""What every host needs of torch: frozen weights, precision, inference tensors, memory layout, and memory statistics.

Programs bring different versions of torch (2.1 and later); what differs between them is dealt with here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint as recompute_in_backward

from celeb_basis.diffusion_model import Casting, DenoiserBlock, MemoryStats, VaeMemory
from celeb_basis.errors import HostError

# The names of a UNet's parts in the original code and in diffusers.
_PARTS = (("input_blocks", "middle_block", "output_blocks"), ("down_blocks", "mid_block", "up_blocks"))
_RESNETS = frozenset({"ResBlock", "ResnetBlock2D"})
_DOWN = frozenset({"Downsample", "Downsample2D"})
_UP = frozenset({"Upsample", "Upsample2D"})


def with_index(device: torch.device) -> torch.device:
    """The device with the number of the graphics card that it means; programs often say ``cuda`` alone.

    Some of torch's functions ask for the number, and devices with and without it are not equal.
    """
    return torch.device("cuda", torch.cuda.current_device()) if device == torch.device("cuda") else device


def channels_last_pays(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether :class:`ChannelsLast` suits convolutions in ``dtype``: in half precision, tensor cores want this order."""
    return device.type == "cuda" and dtype.itemsize == 2


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Autocast disabled on ``device``."""
    try:
        return torch.autocast(device.type, enabled=False)
    except RuntimeError:  # torch has no autocast for such a device, as 2.1 for Apple's: then it is not on
        return nullcontext()


def check_autocast(device: torch.device, dtype: torch.dtype) -> None:
    """Check that torch can compute in ``dtype`` with weights of float32.

    Raises:
        HostError: If it cannot on this device.
    """
    try:
        torch.autocast(device.type, dtype=dtype)
    except RuntimeError as error:
        raise HostError(
            f"torch {torch.__version__} cannot compute in {str(dtype).removeprefix('torch.')} on the device {device} with "
            "this checkpoint: set precision to fp32, or to auto."
        ) from error


def torch_attention_keeps_scores(device: torch.device) -> bool:
    """Whether torch's own attention keeps its scores for the backward pass: it need not on graphics cards only."""
    return device.type in ("cpu", "mps")


@contextmanager
def frozen(modules: Iterable[torch.nn.Module]) -> Iterator[None]:
    """No parameter requires gradients and every module is in evaluation mode; afterwards everything is as before."""
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
    """Hold narrower weights in the wider ``dtype`` inside the context. Rounding back on leaving is exact."""
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


class ChannelsLast:
    """Holds the weights of 2D convolutions in torch's ``channels_last`` order: the same numbers, other strides.

    A denoiser's attention hands its convolutions images in this order; torch's CPU convolutions then bring the whole
    weight into it too, at every call, forward and backward. For full-size Stable Diffusion 1.5 at 256x256 that is a
    fifth of a training step. Weights are exchanged one after the other: there is never a second copy of the model.

    Args:
        modules: The modules whose convolutions are exchanged.
    """

    def __init__(self, modules: Iterable[torch.nn.Module]) -> None:
        self._modules = list(modules)
        self._exchanged: list[torch.Tensor] = []

    def enable(self) -> None:
        """Exchange what is not in this order yet."""
        for weight in self._weights():
            self._exchanged.append(weight)
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)

    def restore(self) -> None:
        """Give every exchanged weight its former strides."""
        while self._exchanged:
            weight = self._exchanged.pop()
            # Not contiguous(): where both orders are the same bytes, it would leave the other strides.
            weight.data = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device).copy_(weight.data)

    def _weights(self) -> list[torch.Tensor]:
        found = {
            id(part.weight): part.weight
            for module in self._modules
            for part in module.modules()
            if isinstance(part, torch.nn.Conv2d) and part.weight.is_contiguous()
        }
        exchanged = {id(weight) for weight in self._exchanged}
        return [weight for key, weight in found.items() if key not in exchanged]


# Some hosts load weights and generate in torch's inference mode. No gradient may pass the tensors made there.


def inference_tensors(modules: Iterable[torch.nn.Module]) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """Parameters and buffers that were made in inference mode.

    Yields:
        The dictionary that holds a tensor, its name there, and the tensor. It may be exchanged at once.
    """
    for part in (part for module in modules for part in module.modules()):
        for owner in (part._parameters, part._buffers):
            for name, tensor in owner.items():
                if tensor is not None and tensor.is_inference():
                    yield owner, name, tensor


def like_tensor(tensor: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """``values``, as a parameter if ``tensor`` is one."""
    return torch.nn.Parameter(values, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else values


def normal_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """``tensor`` itself, or a normal tensor over the same memory if it was made in inference mode."""
    if not tensor.is_inference():
        return tensor
    with leave_inference_mode():
        alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        return alias.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())


def clone_inference_tensors(modules: Iterable[torch.nn.Module]) -> None:
    """Exchange what was made in inference mode for normal copies, one after the other.

    The values are the same; a tensor that several modules share stays shared.
    """
    made: dict[int, torch.Tensor] = {}
    with leave_inference_mode():
        for owner, name, tensor in inference_tensors(modules):
            if id(tensor) not in made:
                made[id(tensor)] = like_tensor(tensor, tensor.clone())
            owner[name] = made[id(tensor)]


class NormalWeights:
    """Parameters and buffers of some modules as normal tensors, between :meth:`enable` and :meth:`restore`.

    Some programs load weights in torch's inference mode, and no gradient may pass such tensors. They are not copied: each
    gets a second name, a normal tensor over the same memory, which takes its place.

    Args:
        modules: The modules.
    """

    def __init__(self, modules: Iterable[torch.nn.Module]) -> None:
        self._modules = list(modules)
        self._exchanged: list[tuple[dict[str, Any], str, Any]] = []

    def enable(self) -> None:
        """Exchange every inference tensor that is there now; one with several names stays one."""
        normal: dict[int, torch.Tensor] = {}
        with torch.inference_mode(False):
            for owner, name, tensor in inference_tensors(self._modules):
                self._exchanged.append((owner, name, tensor))
                if id(tensor) not in normal:
                    normal[id(tensor)] = like_tensor(tensor, normal_tensor(tensor.data))
                owner[name] = normal[id(tensor)]

    def restore(self) -> None:
        """Put every tensor back that was exchanged."""
        while self._exchanged:
            owner, name, tensor = self._exchanged.pop()
            owner[name] = tensor


@contextmanager
def leave_inference_mode() -> Iterator[None]:
    """Without gradients, but outside of inference mode: what is made inside is kept for other uses than generation."""
    with torch.inference_mode(False), torch.no_grad():
        yield


# Programs whose own code is written to be run forward only.


def on_a_copy(forward: Callable[..., Any]) -> Callable[..., Any]:
    """``forward`` given a copy of its first argument, which the program changes in place afterwards."""

    def forward_a_copy(x: Any, *arguments: Any, **options: Any) -> Any:
        return forward(x.clone(), *arguments, **options)

    return forward_a_copy


def recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """``forward`` with gradient checkpointing: it is computed again in the backward pass."""

    def forward_and_recompute(*arguments: Any, **options: Any) -> Any:
        # Nothing in a denoiser in evaluation mode is random, so the random state need not be preserved.
        return recompute_in_backward(forward, *arguments, use_reentrant=False, preserve_rng_state=False, **options)

    return forward_and_recompute


def encode_each(
    images: Iterable[torch.Tensor],
    encode: Callable[[torch.Tensor, bool], torch.Tensor],
    in_float32: Callable[[], AbstractContextManager[Any]],
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Encode images as they come with whatever VAE encoder a program has.

    Half precision overflows in some VAEs, as in SDXL's first one. After the first image that does, all are encoded in
    float32, and the weights are made wider once.

    Args:
        images: Each ``(1, 3, H, W)``.
        encode: Gives the encoder's output ``(1, 2 C, h, w)`` for one image; its second argument says whether in float32, or
            in the precision that the program holds the VAE in.
        in_float32: Makes the context in which the VAE can compute in float32.

    Yields:
        Mean and standard deviation of the unscaled latent, each ``(1, C, h, w)`` float32 on the CPU.
    """
    wide = False
    with ExitStack() as stack:
        for image in images:
            mean, std = _mean_and_std(encode(image, wide))
            if not wide and not bool(torch.isfinite(mean).all() and torch.isfinite(std).all()):
                stack.enter_context(in_float32())
                wide = True
                mean, std = _mean_and_std(encode(image, wide))
            yield mean, std


def decode_each(
    latents: torch.Tensor,
    decode: Callable[[torch.Tensor], torch.Tensor],
    decode_in_float32: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Decode latents one at a time with whatever VAE decoder a program has.

    Args:
        latents: ``(N, C, h, w)``, unscaled.
        decode: The picture ``(1, 3, H, W)`` of one latent, in the precision that the program holds the VAE in.
        decode_in_float32: The same in float32, used where ``decode`` overflows, as SDXL's first VAE does.

    Returns:
        ``(N, 3, H, W)`` float32 on the CPU.
    """
    pictures = []
    for latent in latents:
        picture = decode(latent[None]).float()
        if not bool(torch.isfinite(picture).all()):
            picture = decode_in_float32(latent[None]).float()
        pictures.append(picture.cpu())
    return torch.cat(pictures)


def _mean_and_std(output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean, log_variance = output.float().cpu().chunk(2, dim=1)
    return mean, (0.5 * log_variance.clamp(-30.0, 20.0)).exp()


def memory_stats(
    unet: Any,
    modules: Iterable[torch.nn.Module],
    device: torch.device,
    *,
    vae_scale_factor: int,
    keeps_scores: bool,
    casting: Casting = "once",
    vae: VaeMemory | None = None,
) -> MemoryStats:
    """What is known of a model's memory.

    Args:
        unet: A UNet of the original code or of diffusers.
        modules: What training computes with: denoiser and text encoders.
        device: The device on which it is trained.
        vae_scale_factor: Pixels along a side of an image for each place of its latent.
        keeps_scores: Whether attention keeps its scores for the backward pass.
        casting: How weights come to compute in another precision than their own.
        vae: What the VAE takes, where it is known.
    """
    held = elsewhere = 0
    for module in modules:
        for weight in module.parameters():
            size = weight.numel() * weight.element_size()
            held += size
            elsewhere += 0 if weight.device.type == device.type else size
    return MemoryStats(
        denoiser_blocks(unet),
        vae_scale_factor,
        held,
        elsewhere,
        keeps_scores,
        free_memory(device),
        denoiser=sum(weight.numel() * weight.element_size() for weight in unet.parameters()),
        stored=next(unet.parameters()).dtype,
        casting=casting,
        vae=vae,
    )


# Feature maps of full size that are alive at once in a VAE (tests/hosts/test_vae_memory.py counts them): five of the encoder's
# first width, three of what enters the decoder's last blocks. A tenth more goes to work space and to the allocator's gaps.
ENCODED_MAPS, DECODED_MAPS, VAE_ROOM = 5, 3, 1.1


def vae_memory(
    vae: torch.nn.Module, widths: tuple[int, int], device: torch.device, *, item_size: int, tile: int = 0
) -> VaeMemory:
    """What it takes to encode or decode one image.

    Args:
        vae: The VAE.
        widths: Channels of the encoder's, and of the decoder's largest feature maps of full size.
        device: Where it computes.
        item_size: Bytes of a number that it computes with.
        tile: Side in pixels of the largest area that is computed at once when memory is short; 0 if never.
    """
    weights = elsewhere = 0
    for weight in vae.parameters():
        size = weight.numel() * item_size
        weights += size
        there = weight.device.type == device.type
        elsewhere += size - (weight.numel() * weight.element_size() if there else 0)
    maps = max(ENCODED_MAPS * widths[0], DECODED_MAPS * widths[1])
    return VaeMemory(weights, max(0, elsewhere), VAE_ROOM * item_size * maps, tile)


def memory_of_original_vae(vae: Any, device: torch.device, *, sdxl: bool) -> VaeMemory | None:
    """:func:`vae_memory` of a VAE of the original code; ``None`` if it is of another make.

    SDXL's may overflow in half precision, and then computes in float32.
    """
    try:
        widths = int(vae.encoder.conv_in.out_channels), int(vae.decoder.up[0].block[0].in_channels)
        item_size = 4 if sdxl else next(vae.parameters()).element_size()
    except (AttributeError, IndexError, StopIteration, TypeError):
        return None
    return vae_memory(vae, widths, device, item_size=item_size)


def denoiser_blocks(unet: Any) -> tuple[DenoiserBlock, ...]:
    """The UNet's residual and transformer blocks in the order in which they compute."""
    names = next(names for names in _PARTS if hasattr(unet, names[0]))
    blocks = []
    scale = 1
    for part in (part for name in names for part in getattr(unet, name).modules()):
        kind = {cls.__name__ for cls in type(part).__mro__}
        if kind & _RESNETS:
            # ``channels`` is ldm's name for the channels of the input.
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
    """Bytes that could still be taken on ``device``; ``None`` where that is unknown."""
    if device.type == "cuda":
        device = with_index(device)  # torch 2.1 needs the number
        free, total = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device)
        if hasattr(torch.cuda, "get_per_process_memory_fraction"):  # torch 2.1 lacks it
            free = min(free, int(total * torch.cuda.get_per_process_memory_fraction(device)) - reserved)
        # What torch holds in reserve is free for torch.
        return int(free) + reserved - torch.cuda.memory_allocated(device)
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


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Preserve the random state of Python, NumPy and torch, which belongs to the host's user."""
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
