"""The embedded default: the whole way from a photo to a page, with nothing but installed packages."""

from __future__ import annotations
