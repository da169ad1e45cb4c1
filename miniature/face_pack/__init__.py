"""Assembling the small face pack ``miniature`` from public packages."""

from __future__ import annotations
