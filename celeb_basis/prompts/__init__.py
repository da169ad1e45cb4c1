"""``<name>`` in prompts, independent of any host: finding names, and the identities they mean."""

from __future__ import annotations
