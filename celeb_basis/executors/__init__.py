"""Where people are learned: in this process one after the other, or spread over a Ray cluster."""

from __future__ import annotations
