"""The HTTP API under ``/celeb-basis/v1/``: the service that the page uses, described in the host's OpenAPI document."""

from __future__ import annotations

PREFIX = "/celeb-basis/v1"
