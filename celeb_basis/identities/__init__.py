"""Identities as files: their coefficients, token vectors and metadata, the library, expanding, blending and deleting them."""

from __future__ import annotations
