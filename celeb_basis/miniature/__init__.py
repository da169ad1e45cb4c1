"""Small models with random weights that every tool takes for Stable Diffusion: for tests, benchmarks and the demo."""

from __future__ import annotations
