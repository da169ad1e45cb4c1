"""One person in every tool: an exported identity used for real, beside what this project itself makes of it."""

from __future__ import annotations
