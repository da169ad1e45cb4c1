"""Speed and memory in a real WebUI: ``python -m benchmarks.webui`` with ``CELEB_BASIS_WEBUI`` set to its folder."""

from __future__ import annotations
