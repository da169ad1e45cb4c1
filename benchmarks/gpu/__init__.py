"""Seconds, memory and images a second on a CUDA card: ``python -m benchmarks.gpu``."""

from __future__ import annotations
