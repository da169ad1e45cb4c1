"""An extension for Forge in tests: lets its loader know a small model, as one more kind of Stable Diffusion.

Forge tells models apart by the sizes of their parts, and builds text encoders and VAE from config files of its own for each
kind. Nothing of Forge is changed: its list of kinds gets one entry, which ``small-model.json`` in the data folder describes.
"""

from __future__ import annotations

import json
from pathlib import Path

from backend import loader
from huggingface_guess import model_list
from modules.paths_internal import data_path

told = json.loads(Path(data_path, "small-model.json").read_text(encoding="utf-8"))
base = getattr(model_list, told["base"])
attributes = {
    # joined to Forge's own folder of configs, an absolute path takes its place
    "huggingface_repo": told["configs"],
    "unet_config": base.unet_config | told["sizes"],
    "unet_extra_config": base.unet_extra_config | told["heads"],
}
if not any(kind.__name__ == "Small" for kind in model_list.models):
    small = type("Small", (base,), attributes)
    model_list.models.append(small)
    for engine in loader.possible_models:
        # Forge Neo's takes its own kinds, and none that is derived from them.
        if base in engine.matched_guesses:
            engine.matched_guesses.append(small)
