"""The adapter for Stable Diffusion WebUI Forge: learning and drawing through the checkpoint that it has loaded."""

from __future__ import annotations

from celeb_basis.hosts.forge.host import ForgeHost

__all__ = ["ForgeHost"]
