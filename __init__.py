"""ComfyUI's entry point: it imports this file of every folder in ``custom_nodes``. Anywhere else nothing happens here."""

from __future__ import annotations

import sys
from typing import Any

NODE_CLASS_MAPPINGS: dict[str, Any] = {}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}

# ComfyUI has imported its folders long before; a test runner or a type checker that passes by has not.
if __package__ and "folder_paths" in sys.modules:
    from . import comfyui

    comfyui.load_package()
    from .comfyui.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
