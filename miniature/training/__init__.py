"""Training of the miniature Stable Diffusion: its networks, and the gate that they have to pass."""

from __future__ import annotations
