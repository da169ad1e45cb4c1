"""A CUDA card as the measurements use it, and the processor that stands in for one in a rehearsal."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable

import torch


class Card:
    """The device that is measured.

    Args:
        rehearse: Use the processor, which has no figures of memory: they are 0.
    """

    def __init__(self, *, rehearse: bool) -> None:
        self.rehearse = rehearse
        self.device = "cpu" if rehearse else "cuda"
        self.dtype = torch.float32 if rehearse else torch.float16

    @property
    def name(self) -> str:
        """The card's name."""
        return "rehearsal on the processor" if self.rehearse else torch.cuda.get_device_name()

    @property
    def gigabytes(self) -> float:
        """The card's memory."""
        return 0.0 if self.rehearse else torch.cuda.get_device_properties(0).total_memory / 1e9

    def synchronize(self) -> None:
        """Wait until everything that the card was given is computed."""
        if not self.rehearse:
            torch.cuda.synchronize()

    def seconds(self, call: Callable[[], object]) -> float:
        """Wall-clock seconds of a call, the card's work included."""
        self.synchronize()
        started = time.perf_counter()
        call()
        self.synchronize()
        return time.perf_counter() - started

    def median(self, call: Callable[[], object], times: int, *, warm_ups: int = 2) -> float:
        """The median of :meth:`seconds` after some calls that are not counted."""
        for _ in range(warm_ups):
            call()
        return statistics.median(self.seconds(call) for _ in range(times))

    def reset_peak(self) -> float:
        """Start measuring the peak of torch's allocator; returns the bytes that are allocated now."""
        gc.collect()
        if self.rehearse:
            return 0.0
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return float(torch.cuda.memory_allocated())

    def peak(self) -> float:
        """The most bytes that were allocated since :meth:`reset_peak`."""
        return 0.0 if self.rehearse else float(torch.cuda.max_memory_allocated())
