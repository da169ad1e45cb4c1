"""The adapter for reForge: the WebUI's text encoders and prompts, with a denoiser and a memory management of its own."""

from __future__ import annotations

from celeb_basis.hosts.reforge.host import ReForgeHost

__all__ = ["ReForgeHost"]
