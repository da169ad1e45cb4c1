"""Small models with random weights that other tools accept as Stable Diffusion, for tests, benchmarks and the demo."""

from __future__ import annotations
