"""The evidence: strangers learned from one picture each, drawn in scenes never shown for them, judged by others' eyes."""

from __future__ import annotations
