"""Runs inside ComfyUI's own Python: its modules without its page, and a small checkpoint loaded as its nodes load it."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import torch


def start(base: Path) -> None:
    """ComfyUI's modules with ``base`` as its base folder, and small models known to its loader."""
    sys.path.insert(0, os.environ["CELEB_BASIS_COMFYUI"])
    sys.argv = [sys.argv[0], "--cpu", "--base-directory", str(base), "--fp32-text-enc"]
    import comfy.options

    comfy.options.enable_args_parsing()
    path = base / "custom_nodes" / "comfyui_small" / "__init__.py"
    spec = importlib.util.spec_from_file_location("comfyui_small", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["comfyui_small"] = module
    spec.loader.exec_module(module)


def loaded(name: str) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of a checkpoint, as *Load Checkpoint* gives them: made in inference mode."""
    import comfy.sd
    import folder_paths

    path = folder_paths.get_full_path_or_raise("checkpoints", f"{name}.safetensors")
    with torch.inference_mode():
        model, clip, vae, *_ = comfy.sd.load_checkpoint_guess_config(
            path, embedding_directory=folder_paths.get_folder_paths("embeddings")
        )
    return model, clip, vae
