"""Celebrities' names, from which a basis is built: the shipped list, the user's own lists, filters (paper section 3.2)."""

from __future__ import annotations
