"""The world that the miniature shows: invented people in 3D with names, in scenes, and captions that describe them."""

from __future__ import annotations
