"""diffusers: its own ``load_textual_inversion``, and the pipelines' own ``encode_prompt``."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.interop.inside.common import Task, main, plain_ids


class Diffusers:
    """A pipeline of diffusers."""

    name = "diffusers"

    def __init__(self, task: Task) -> None:
        import diffusers

        self.version = diffusers.__version__
        self.pipeline = diffusers.DiffusionPipeline.from_pretrained(
            str(task.model), torch_dtype=torch.float32, local_files_only=True
        )
        self.parts = {"clip_l": (self.pipeline.text_encoder, self.pipeline.tokenizer)}
        if getattr(self.pipeline, "text_encoder_2", None) is not None:
            self.parts["clip_g"] = (self.pipeline.text_encoder_2, self.pipeline.tokenizer_2)
        for files in task.files.values():
            for file, (encoder, tokenizer) in zip(files, self.parts.values(), strict=True):
                self.pipeline.load_textual_inversion(str(file), text_encoder=encoder, tokenizer=tokenizer)

    def vectors(self, name: str) -> dict[str, torch.Tensor]:
        """Token vectors of one identity, by text encoder."""
        return {
            which: encoder.get_input_embeddings()
            .weight[tokenizer.convert_tokens_to_ids([f"<{name}>", f"<{name}>_1"])]
            .detach()
            for which, (encoder, tokenizer) in self.parts.items()
        }

    def encode(self, prompt: str) -> dict[str, torch.Tensor]:
        """The conditioning of a prompt, by its part."""
        encoded: Any = self.pipeline.encode_prompt(
            prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return {"states": encoded[0]} | ({"pooled": encoded[2]} if len(encoded) > 2 else {})

    def table(self, encoder: str) -> torch.Tensor:
        """The token embeddings of a text encoder, ``(V, D)``."""
        weight: torch.Tensor = self.parts[encoder][0].get_input_embeddings().weight
        return weight

    def token_ids(self, encoder: str, word: str) -> list[int]:
        """Token ids of a word, without special tokens."""
        return plain_ids(self.parts[encoder][1], word)


if __name__ == "__main__":
    main(Diffusers)
