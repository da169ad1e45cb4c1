"""The extension over HTTP, under ``/celeb-basis/v1/``: the same service as the page, in the host's OpenAPI document."""

from __future__ import annotations

PREFIX = "/celeb-basis/v1"
