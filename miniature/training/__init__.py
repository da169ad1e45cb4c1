"""Training of the miniature Stable Diffusion: its world of synthetic people, its networks, and its acceptance test."""

from __future__ import annotations
