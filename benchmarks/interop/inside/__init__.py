"""Modules that run in the other tools' own Pythons. They need nothing of this project but this folder, and torch."""

from __future__ import annotations
