"""Interoperability: exported identities used in other tools, compared with what this project itself computes."""

from __future__ import annotations
