"""The adapter for AUTOMATIC1111's WebUI: learning and drawing through the checkpoint that it has loaded."""

from __future__ import annotations

from celeb_basis.hosts.a1111.host import A1111Host

__all__ = ["A1111Host"]
