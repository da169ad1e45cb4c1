"""Stable Diffusion 1.x, 2.x and XL in diffusers, from a local folder or one ``.safetensors`` file."""

from __future__ import annotations

from celeb_basis.hosts.diffusers.checkpoint import load_host
from celeb_basis.hosts.diffusers.host import DiffusersHost

__all__ = ["DiffusersHost", "load_host"]
