"""The adapter for SD.Next, whose models are diffusers' pipelines."""

from __future__ import annotations

from celeb_basis.hosts.sdnext.host import SDNextHost

__all__ = ["SDNextHost"]
