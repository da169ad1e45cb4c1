"""The evidence: people the model has never seen, learned from one photo each by many methods and measured on new prompts."""

from __future__ import annotations
