"""The command line: one module a command. They ask the core and tell its answers; nothing is worked out here."""

from __future__ import annotations
