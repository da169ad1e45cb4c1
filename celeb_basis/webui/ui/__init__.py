"""The page in the WebUI: one file a sub-tab. What differs between versions of gradio is in ``gr.py`` alone."""

from __future__ import annotations
