"""Augmented views of a person, the prompts that describe them, and the pool of their latents and face vectors."""

from __future__ import annotations
