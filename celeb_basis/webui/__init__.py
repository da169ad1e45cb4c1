"""The extension for AUTOMATIC1111's WebUI: what its thin entry files at the repository's root call."""

from __future__ import annotations
