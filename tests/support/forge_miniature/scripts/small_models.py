"""An extension for Forge in tests: lets its loader know the miniature, as one more kind of Stable Diffusion 1.

Forge tells models apart by the sizes of their parts, and builds text encoder and VAE from config files of its own for each
kind. Nothing of Forge is changed: its list of kinds gets one entry, whose config files are the miniature's.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_guess import model_list
from modules.paths_internal import data_path


class Miniature(model_list.SD15):
    # joined to Forge's own folder of configs, an absolute path takes its place
    huggingface_repo = str(Path(data_path, "miniature-configs").absolute())
    unet_config = model_list.SD15.unet_config | {"context_dim": 192, "model_channels": 64}


if not any(kind.__name__ == Miniature.__name__ for kind in model_list.models):
    model_list.models.append(Miniature)
