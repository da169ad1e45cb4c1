"""The adapter for AUTOMATIC1111's WebUI: learning and drawing through the checkpoint that it has loaded."""

from __future__ import annotations

from celeb_basis.hosts.a1111.host import WebUIHost

__all__ = ["WebUIHost"]
