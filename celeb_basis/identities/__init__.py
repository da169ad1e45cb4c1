"""People as files: coefficients, token vectors and metadata; the folder of them; re-expansion and arithmetic."""

from __future__ import annotations
