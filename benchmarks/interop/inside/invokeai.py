"""InvokeAI: its own textual inversion loader and prompt nodes; only its model store is replaced."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.interop.inside.common import Task, main, plain_ids


class InvokeAI:
    """The nodes *Prompt - SD1.5* and *Prompt - SDXL*."""

    name = "InvokeAI"

    def __init__(self, task: Task) -> None:
        from invokeai.backend.model_manager.taxonomy import BaseModelType
        from invokeai.backend.textual_inversion import TextualInversionModelRaw
        from invokeai.version import __version__
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

        self.version = __version__
        self.base = {"sd1": BaseModelType.StableDiffusion1, "sdxl": BaseModelType.StableDiffusionXL}[task.family]
        self.embeddings = {name: TextualInversionModelRaw.from_checkpoint(file) for name, (file,) in task.files.items()}
        kinds = {"clip_l": (CLIPTextModel, "")}
        if task.family == "sdxl":
            kinds["clip_g"] = (CLIPTextModelWithProjection, "_2")
        options: dict[str, Any] = {"local_files_only": True}
        self.parts = {
            which: (
                kind.from_pretrained(task.model / f"text_encoder{suffix}", dtype=torch.float32, **options).eval(),
                CLIPTokenizer.from_pretrained(task.model / f"tokenizer{suffix}", **options),
            )
            for which, (kind, suffix) in kinds.items()
        }

    def vectors(self, name: str) -> dict[str, torch.Tensor]:
        """Token vectors of one identity, by text encoder."""
        raw = self.embeddings[name]
        if len(self.parts) == 1:
            return {"clip_l": raw.embedding}
        return {"clip_g": raw.embedding, "clip_l": raw.embedding_2}

    def encode(self, prompt: str) -> dict[str, torch.Tensor]:
        """The conditioning of a prompt, by its part."""
        from invokeai.app.invocations import compel
        from invokeai.app.invocations.model import CLIPField

        clip = {
            which: CLIPField.model_construct(
                text_encoder=which, tokenizer=f"{which} tokenizer", loras=[], skipped_layers=0
            )
            for which in self.parts
        }
        saved: list[Any] = []
        context = self._context(saved)
        if len(self.parts) == 1:
            compel.CompelInvocation.model_construct(prompt=prompt, clip=clip["clip_l"]).invoke(context)
            return {"states": saved[0].conditionings[0].embeds}
        size = {"original_width": 64, "original_height": 64, "target_width": 64, "target_height": 64}
        node = compel.SDXLCompelPromptInvocation.model_construct(
            prompt=prompt,
            style="",
            clip=clip["clip_l"],
            clip2=clip["clip_g"],
            crop_top=0,
            crop_left=0,
            mask=None,
            **size,
        )
        node.invoke(context)
        encoded = saved[0].conditionings[0]
        return {"states": encoded.embeds, "pooled": encoded.pooled_embeds}

    def table(self, encoder: str) -> torch.Tensor:
        """The token embeddings of a text encoder, ``(V, D)``."""
        weight: torch.Tensor = self.parts[encoder][0].get_input_embeddings().weight
        return weight

    def token_ids(self, encoder: str, word: str) -> list[int]:
        """Token ids of a word, without special tokens."""
        return plain_ids(self.parts[encoder][1], word)

    def _context(self, saved: list[Any]) -> Any:
        """The parts of the application that a node uses: models by name, and where conditioning is saved."""
        from invokeai.app.services.model_records import UnknownModelException

        def load(name: str) -> Any:
            for which, (encoder, tokenizer) in self.parts.items():
                if name == which:
                    return _Loaded(encoder, self.base)
                if name == f"{which} tokenizer":
                    return _Loaded(tokenizer, self.base)
            raise UnknownModelException(name)

        def load_by_attrs(name: str, **_: Any) -> Any:
            if name not in self.embeddings:
                raise UnknownModelException(name)
            return _Loaded(self.embeddings[name], self.base)

        def save(data: Any) -> str:
            saved.append(data)
            return "conditioning"

        return SimpleNamespace(
            models=SimpleNamespace(load=load, load_by_attrs=load_by_attrs),
            util=SimpleNamespace(signal_progress=lambda *_: None),
            config=SimpleNamespace(get=lambda: SimpleNamespace(log_tokenization=False)),
            conditioning=SimpleNamespace(save=save),
        )


class _Loaded:
    """A model from the store."""

    compute_device = torch.device("cpu")

    def __init__(self, model: Any, base: Any) -> None:
        self.model, self.config = model, SimpleNamespace(base=base)

    def __enter__(self) -> Any:
        return self.model

    def __exit__(self, *_: object) -> None:
        return None

    @contextmanager
    def model_on_device(self) -> Any:
        yield None, self.model


if __name__ == "__main__":
    main(InvokeAI)
