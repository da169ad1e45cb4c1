"""The command line: one module per command, on top of the core, which does the work."""

from __future__ import annotations
