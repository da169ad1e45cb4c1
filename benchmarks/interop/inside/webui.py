"""AUTOMATIC1111's WebUI: its own embeddings loader on the exported files, or, with ``--extension``, this extension."""

from __future__ import annotations

import sys
from typing import Any

import torch

from benchmarks.interop.inside.common import Task, main, plain_ids


class WebUI:
    """The loaded checkpoint of a WebUI without the extension; the files are in its embeddings folder."""

    name = "WebUI"

    def __init__(self, task: Task) -> None:
        from support.webui_inside import start_with

        embeddings = task.folder / "embeddings"
        embeddings.mkdir(exist_ok=True)
        for files in task.files.values():
            for file in files:
                (embeddings / file.name).write_bytes(file.read_bytes())
        self.model = start_with(task.model, task.folder)
        from modules import launch_utils, sd_hijack

        self.version = f"{launch_utils.git_tag()} ({launch_utils.commit_hash()[:8]})"
        self.database = sd_hijack.model_hijack.embedding_db
        self.database.load_textual_inversion_embeddings(force_reload=True)

    def vectors(self, name: str) -> dict[str, torch.Tensor]:
        """Token vectors of one identity, by text encoder."""
        vec = self.database.word_embeddings[name].vec
        return dict(vec) if isinstance(vec, dict) else {"clip_l": vec}

    def encode(self, prompt: str) -> dict[str, torch.Tensor]:
        """The conditioning of a prompt, by its part."""
        from modules import devices, prompt_parser

        with devices.autocast():
            states = self.model.get_learned_conditioning(prompt_parser.SdConditioning([prompt]))
        return {"states": states}

    def table(self, encoder: str) -> torch.Tensor:
        """The token embeddings of a text encoder, ``(V, D)``."""
        assert encoder == "clip_l", "only SD1 checkpoints are tested"
        weight: torch.Tensor = self._text().text_model.embeddings.token_embedding.wrapped.weight
        return weight

    def token_ids(self, encoder: str, word: str) -> list[int]:
        """Token ids of a word, without special tokens."""
        assert encoder == "clip_l", "only SD1 checkpoints are tested"
        return plain_ids(self.model.cond_stage_model.wrapped.tokenizer, word)

    def _text(self) -> Any:
        return self.model.cond_stage_model.wrapped.transformer


class WithExtension(WebUI):
    """The same with this extension: the embeddings folder is empty, and the identities are in the extension's own folder."""

    name = "WebUI with the extension"

    def __init__(self, task: Task) -> None:
        from celeb_basis.hosts.a1111 import tokens as tokens_host
        from celeb_basis.prompts.registry import Registry

        super().__init__(Task(task.folder, task.model, task.family, {}, (), {}, {}))
        people = task.folder / "people"
        people.mkdir()
        for files in task.files.values():
            for file in files:
                (people / file.name).write_bytes(file.read_bytes())
        # Identities belong to the checkpoint that they were learned on: its hash is set, as the host would compute it.
        from celeb_basis.identities.identity import load_identity

        (first, *_) = (load_identity(file) for files in task.files.values() for file in files)
        self.model.sd_checkpoint_info.sha256 = first.metadata.base_sha256
        self.tokens: Any = tokens_host.install(Registry(people))

    def vectors(self, name: str) -> dict[str, torch.Tensor]:
        """Token vectors of one identity, by text encoder."""
        (found,) = self.tokens.mentioned(f"<{name}>")
        return dict(zip(found.identity.encoders, found.identity.token_vectors(), strict=True))


if __name__ == "__main__":
    extension = "--extension" in sys.argv
    if extension:
        sys.argv.remove("--extension")
    main(WithExtension if extension else WebUI)
