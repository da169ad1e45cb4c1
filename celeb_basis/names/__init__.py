"""Celebrities' names, from which a basis is built: the shipped list, reading lists, filtering them (paper section 3.2)."""

from __future__ import annotations
