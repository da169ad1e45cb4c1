"""The page in the WebUI, a module for each sub-tab; what differs between versions of gradio is in ``components``."""

from __future__ import annotations
