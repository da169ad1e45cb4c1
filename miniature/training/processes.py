"""Worker processes that draw pictures while the main process trains."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import torch


def drawing_processes(count: int) -> ProcessPoolExecutor:
    """``count`` new processes with one core each."""
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"), initializer=_one_core)


def _one_core() -> None:
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
