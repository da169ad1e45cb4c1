"""The UNet, its loss, and processes that compute the gradients of parts of a batch side by side."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from miniature.training.checkpoints import load_state
from miniature.training.hardware import ready_for_half
from miniature.training.text_model import WIDTH, WorldText
from miniature.world.scenes import SIDE

CONFIG: dict[str, Any] = {
    "sample_size": SIDE // 8,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 4,
}
SIZES: dict[str, tuple[int, int, int]] = {"small": (64, 128, 128), "large": (128, 256, 320)}
"""Channels: what two cores can train, and what a GPU can and 60 MB hold."""
ROUNDING = 0.5
"""Share by which a weight's gradient may be longer or shorter, along the exact one, when the UNet is compiled."""
_SEED = 14


def unet_config(size: str) -> dict[str, Any]:
    """Configuration of a UNet of one of :data:`SIZES`."""
    return {**CONFIG, "block_out_channels": list(SIZES[size])}


def new_unet(config: dict[str, Any]) -> Any:
    """An untrained UNet."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(_SEED)
    return UNet2DConditionModel.from_config(config)


class Part(NamedTuple):
    """A part of a batch of N pictures."""

    noisy: Tensor
    """``(N, C, h, w)`` noisy latents."""
    times: Tensor
    """``(N,)`` their timesteps."""
    velocity: Tensor
    """``(N, C, h, w)``: what is to be predicted."""
    ids: Tensor
    """``(N, 77)`` captions as token ids."""
    counted: Tensor
    """``(N, 1, h, w)``: how much an error counts."""
    share: float
    """Of the part in the whole batch."""


class Gradients:
    """Computes the loss of parts of a batch and its gradients."""

    def __init__(self, unet: Any, text: WorldText, *, device: str = "cpu", half: bool = False, compiled: bool = False):
        """``half`` computes in bfloat16; ``compiled`` compiles both networks when they are first used."""
        self._text: Any = text
        self._device, self._half = device, half
        self._weights = list(unet.parameters())
        self._denoise: Any = unet
        self._compiled: Any = (torch.compile(text), torch.compile(unet)) if compiled else None

    def __call__(self, part: Part) -> tuple[Tensor, Sequence[Tensor]]:
        """The part's share in the mean loss of the batch, and its gradients in the order of the weights.

        Raises:
            RuntimeError: The gradients of the compiled networks are wrong.
        """
        if self._compiled is not None:
            exact = self._found(part, half=False)[1]
            (self._text, self._denoise), self._compiled = self._compiled, None
            _compare(exact, self._found(part, half=self._half)[1])
        return self._found(part, half=self._half)

    def _found(self, part: Part, *, half: bool) -> tuple[Tensor, Sequence[Tensor]]:
        with torch.autocast(self._device, torch.bfloat16, enabled=half):
            with torch.no_grad():
                states = self._text(part.ids)
            noisy = part.noisy.contiguous(memory_format=torch.channels_last)
            predicted = self._denoise(noisy, part.times, states).sample
        loss = ((predicted.float() - part.velocity).square() * part.counted).mean() * part.share
        return loss.detach(), torch.autograd.grad(loss, self._weights)


def _compare(wanted: Sequence[Tensor], found: Sequence[Tensor]) -> None:
    # A compiler's faults show in no other way than in worse results. Nearly nothing may be another nearly nothing.
    least = 1e-3 * float(torch.stack([one.norm() for one in wanted]).norm())
    for one, other in zip(wanted, found, strict=True):
        along = float((one * other).sum() / one.square().sum().clamp(min=1e-30))
        if float(one.norm()) > least and abs(along - 1) > ROUNDING:
            raise RuntimeError(
                "The compiled networks compute other gradients than the networks themselves: this version of torch compiles "
                "them wrongly for this machine. Train without --compiled."
            )


class Beside:
    """Another process on this machine's CPU that computes gradients, with weights in memory that both share."""

    def __init__(self, config: dict[str, Any], unet: Any, text_file: Path, used: Sequence[int], **options: Any):
        """Start it.

        Args:
            config: Of the UNet.
            unet: Whose weights are shared: they have to be changed in place.
            text_file: The trained text encoder.
            used: Its token ids.
            options: Of :class:`Gradients`.
        """
        context = torch.multiprocessing.get_context("spawn")
        weights = [_shared(weight.detach()) for weight in unet.parameters()]
        self._gradients = [_shared(torch.zeros_like(weight)) for weight in weights]
        self._connection, theirs = context.Pipe()
        work = (theirs, config, weights, self._gradients, text_file, list(used), options)
        self._process = context.Process(target=_compute, args=work, daemon=True)
        self._process.start()
        theirs.close()

    def begin(self, part: Part) -> None:
        """Let it begin with a part.

        Raises:
            RuntimeError: It has ended.
        """
        with _ending_named():
            self._connection.send([*(one.numpy() for one in part[:-1]), part.share])

    def end(self) -> tuple[Tensor, Sequence[Tensor]]:
        """Wait for its loss and gradients, which are valid until it begins with the next part.

        Raises:
            RuntimeError: It has ended.
        """
        with _ending_named():
            return torch.tensor(self._connection.recv()), self._gradients

    def close(self) -> None:
        """End it."""
        self._connection.close()
        self._process.join()


def _shared(tensor: Tensor) -> Tensor:
    return tensor.share_memory_()  # type: ignore[no-untyped-call, no-any-return]


@contextmanager
def _ending_named() -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError) as error:
        raise RuntimeError("A process beside the training has ended: see its error above, and start again.") from error


def _compute(
    connection: Connection,
    config: dict[str, Any],
    weights: list[Tensor],
    gradients: list[Tensor],
    text_file: Path,
    used: list[int],
    options: dict[str, Any],
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    text, unet = WorldText(used), new_unet(config)
    load_state(text_file, {"model": text})
    for own, shared in zip(unet.parameters(), weights, strict=True):
        own.data = shared
    if options.get("half"):
        ready_for_half(unet)
    compute = Gradients(unet, text.requires_grad_(False), **options)
    while True:
        try:
            received = connection.recv()
        except EOFError:
            return
        noisy, times, velocity, ids, counted = map(torch.from_numpy, received[:-1])
        loss, found = compute(Part(noisy, times, velocity, ids, counted, received[-1]))
        for target, source in zip(gradients, found, strict=True):
            target.copy_(source)
        connection.send(float(loss))
