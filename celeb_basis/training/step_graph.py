"""The denoiser's part of a training step as CUDA graphs: launched at once, instead of kernel by kernel.

A step of a fixed shape launches the same thousands of kernels again and again, and for small batches a fast card waits
for Python. A graph records them once, together with the addresses of their tensors; each step then copies its inputs into
the recorded ones and replays it. The kernels are the same, and so is the result.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from celeb_basis.diffusion_model import TensorCall

_log = logging.getLogger(__name__)

MIN_STEPS = 20
"""With fewer steps to go, recording (some five steps' time) does not pay."""

_WARM_UPS = 3
# Largest difference between the first replay and the same computed without a graph, relative to the latter's length. Half
# precision rounds sums in another order; a graph that recorded something else is off by far more.
_TOLERANCE = 0.02


class Recorder(Protocol):
    """Records work on a device; :class:`CudaRecorder` is the real one."""

    def warm_up(self, work: Callable[[], None]) -> None:
        """Run ``work`` as it has to be run before it is recorded."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record ``work``, which runs once for it; returns what repeats it on the same tensors."""

    def close(self) -> None:
        """Free what was recorded."""


class CudaRecorder:
    """CUDA graphs that share one pool of memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None
        self._graphs: list[Any] = []

    def warm_up(self, work: Callable[[], None]) -> None:
        """On another stream, as CUDA asks for: libraries allocate their work space at first use."""
        with torch.cuda.device(self._device):
            stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                work()
            torch.cuda.current_stream().wait_stream(stream)
            torch.cuda.synchronize()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """As one graph."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device), torch.cuda.graph(graph, pool=self._pool):
            work()
        self._pool = graph.pool()
        self._graphs.append(graph)
        return graph.replay

    def close(self) -> None:
        """Free the graphs and their memory."""
        for graph in self._graphs:
            graph.reset()
        self._graphs.clear()
        self._pool = None
        torch.cuda.empty_cache()


class StepGraph:
    """Calls a function of tensors, forward and backward, by recordings made at its first call.

    Whatever goes wrong while recording, the function is called as it is from then on, and :attr:`problem` says why. So is
    a call with other shapes than the recorded ones.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._recorded: _Recorded | None = None
        self.problem = ""
        """The sentence for the user, once recording has failed."""

    def __call__(self, call: TensorCall) -> torch.Tensor:
        """``call``'s result, through which gradients flow to those of its inputs that ask for them."""
        if self.problem or not any(one.requires_grad for one in call.inputs):
            return call()
        if self._recorded is None:
            try:
                self._recorded = _Recorded(call, self._recorder)
            except Exception as error:  # CUDA refuses in many ways, and running out of memory is one of them
                self._give_up(error)
                return call()
        if not self._recorded.fits(call):
            return call()
        return self._recorded.replay(call.inputs)

    def close(self) -> None:
        """Free the recordings; the next call would record again."""
        if self._recorded is not None:
            self._recorded = None
            self._recorder.close()

    def _give_up(self, error: Exception) -> None:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        self.problem = (
            f"Steps cannot be recorded as a CUDA graph here ({first[:200]}), so they are launched one by one, which is slower: "
            "set cuda_graph to off to skip the attempt."
        )
        _log.info("%s", self.problem, exc_info=error)
        self._recorded = None
        self._recorder.close()


class _Recorded:
    """Recordings of the forward and the backward pass, and the tensors that they read and write."""

    def __init__(self, call: TensorCall, recorder: Recorder) -> None:
        self._function = call.function
        self._inputs = [one.detach().clone().requires_grad_(one.requires_grad) for one in call.inputs]
        self.passes = 0
        """Forward passes that were replayed."""
        self._leaves = [one for one in self._inputs if one.requires_grad]
        with torch.enable_grad():
            for _ in range(_WARM_UPS):
                recorder.warm_up(self._warm_up)
            expected, gradients = self._output.clone(), [one.clone() for one in self._gradients]
            self._live: torch.Tensor | None = None
            self._forward_again = recorder.record(self._forward)
            self._backward_again = recorder.record(self._backward)
        self._live = None  # recorded; the graph that autograd built for it is not needed again
        self._check(expected, gradients)

    def fits(self, call: TensorCall) -> bool:
        """Whether ``call`` is the recorded one with other numbers."""
        return self._function == call.function and [_kind(one) for one in self._inputs] == [
            _kind(one) for one in call.inputs
        ]

    def replay(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """The result for new inputs."""
        result: torch.Tensor = _Replay.apply(self, *inputs)  # type: ignore[no-untyped-call]
        return result

    def run_forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Copy inputs to where the recording reads them, and replay the forward pass."""
        self.passes += 1
        for static, given in zip(self._inputs, inputs, strict=True):
            static.detach().copy_(given.detach())
        self._forward_again()
        return self._output.detach().clone()

    def run_backward(self, gradient: torch.Tensor, of_pass: int) -> list[torch.Tensor | None]:
        """Replay the backward pass; the gradients of all inputs, ``None`` for those that ask for none.

        Raises:
            RuntimeError: If another forward pass has overwritten what the backward pass of this one needs.
        """
        if of_pass != self.passes:
            raise RuntimeError("A recorded step's backward pass has to come before the next forward pass.")
        self._gradient.copy_(gradient)
        self._backward_again()
        of_leaves = iter(self._gradients)
        return [next(of_leaves).clone() if one.requires_grad else None for one in self._inputs]

    def _warm_up(self) -> None:
        live = self._function(*self._inputs)
        self._output = torch.empty_like(live, requires_grad=False).copy_(live.detach())
        self._gradient = self._output.clone()
        found = torch.autograd.grad(live, self._leaves, self._gradient)
        self._gradients = [one.clone() for one in found]

    def _forward(self) -> None:
        self._live = self._function(*self._inputs)
        self._output.copy_(self._live.detach())

    def _backward(self) -> None:
        assert self._live is not None
        for static, found in zip(
            self._gradients, torch.autograd.grad(self._live, self._leaves, self._gradient), strict=True
        ):
            static.copy_(found)

    def _check(self, expected: torch.Tensor, gradients: Sequence[torch.Tensor]) -> None:
        """Compare the first replay with what was computed without a recording.

        Raises:
            RuntimeError: If they differ by more than rounding.
        """
        output = self.run_forward(self._inputs)
        replayed = [one for one in self.run_backward(expected, self.passes) if one is not None]
        for what, found, known in zip(
            ("result", *["gradient"] * len(gradients)), (output, *replayed), (expected, *gradients), strict=True
        ):
            difference = float((found - known).float().norm() / known.float().norm().clamp_min(1e-12))
            if not difference < _TOLERANCE and bool(torch.isfinite(known).all()):
                raise RuntimeError(f"its {what} differs by {difference:.2g} of its length")


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, recorded: _Recorded, *inputs: torch.Tensor) -> torch.Tensor:
        result = recorded.run_forward(inputs)
        ctx.recorded, ctx.of_pass = recorded, recorded.passes
        return result

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        return (None, *ctx.recorded.run_backward(gradient, ctx.of_pass))


def _kind(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.dtype, tensor.device, tensor.requires_grad
