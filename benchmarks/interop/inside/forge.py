"""Forge or, with ``--neo``, Forge Neo: its own text engine and embeddings loader, with a text encoder of its own class."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.interop.inside.common import Task, main, plain_ids
from celeb_basis.hosts.forge.modules import text_engine_class

_FLAGS = ("--always-cpu", "--skip-torch-cuda-test", "--skip-install", "--disable-console-progressbars")


class Forge:
    """Forge's engine for SD1."""

    name = "Forge"
    variable = "CELEB_BASIS_FORGE"

    def __init__(self, task: Task) -> None:
        from support.forge_cpu import stay_on_cpu

        folder = os.environ[self.variable]
        os.chdir(folder)
        sys.path.insert(0, folder)
        sys.argv = ["webui.py", *_FLAGS, "--data-dir", str(task.folder)]
        stay_on_cpu(Path(folder))
        from modules_forge.initialization import initialize_forge

        initialize_forge()
        from modules import shared_init

        shared_init.initialize()
        from backend.nn.clip import IntegratedCLIP
        from modules_forge import forge_version
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

        self.version = forge_version.version
        embeddings = task.folder / "embeddings"
        embeddings.mkdir(exist_ok=True)
        for files in task.files.values():
            for file in files:
                (embeddings / file.name).write_bytes(file.read_bytes())
        config = CLIPTextConfig(**json.loads((task.model / "text_encoder" / "config.json").read_text("utf-8")))
        model = IntegratedCLIP(CLIPTextModel, config, add_text_projection=False)
        weights = load_file(str(task.model / "text_encoder" / "model.safetensors"))
        missing, unexpected = model.transformer.load_state_dict(
            {key: value.float() for key, value in weights.items()}, strict=False
        )
        if unexpected or [key for key in missing if "position_ids" not in key]:
            raise SystemExit(
                f"The text encoder was not loaded completely: {missing} are missing, {unexpected} are unknown"
            )
        self.engine = text_engine_class()(
            model.float().eval(),
            CLIPTokenizer.from_pretrained(str(task.model / "tokenizer"), local_files_only=True),
            embedding_dir=str(embeddings),
            embedding_key="clip_l",
            embedding_expected_shape=config.hidden_size,
        )

    def vectors(self, name: str) -> dict[str, torch.Tensor]:
        """Token vectors of one identity, by text encoder."""
        return {"clip_l": self.engine.embeddings.word_embeddings[name].vec}

    def encode(self, prompt: str) -> dict[str, torch.Tensor]:
        """The conditioning of a prompt, by its part."""
        return {"states": self.engine([prompt])}

    def table(self, encoder: str) -> torch.Tensor:
        """The token embeddings of a text encoder, ``(V, D)``."""
        assert encoder == "clip_l", "only SD1 checkpoints are tested"
        weight: torch.Tensor = self._embeddings().token_embedding.wrapped.weight
        return weight

    def token_ids(self, encoder: str, word: str) -> list[int]:
        """Token ids of a word, without special tokens."""
        assert encoder == "clip_l", "only SD1 checkpoints are tested"
        return plain_ids(self.engine.tokenizer, word)

    def _embeddings(self) -> Any:
        return self.engine.text_encoder.transformer.text_model.embeddings


class ForgeNeo(Forge):
    """Forge Neo's."""

    name = "Forge Neo"
    variable = "CELEB_BASIS_FORGE_NEO"


if __name__ == "__main__":
    if neo := "--neo" in sys.argv:
        sys.argv.remove("--neo")
    main(ForgeNeo if neo else Forge)
