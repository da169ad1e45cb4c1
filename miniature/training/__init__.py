"""How the miniature Stable Diffusion is made: its world of synthetic people, its training, and the gate it must pass."""

from __future__ import annotations
