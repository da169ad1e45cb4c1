"""ComfyUI from the folder in ``CELEB_BASIS_COMFYUI``: its own embedding loader, or, with ``--nodes``, our custom nodes."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.interop.inside.common import Task, main, plain_ids

_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "max_position_embeddings",
    "projection_dim",
    "hidden_act",
)
_FOLDERS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}


class ComfyUI:
    """ComfyUI's ``CLIP`` object, as its nodes pass it on."""

    name = "ComfyUI"

    def __init__(self, task: Task) -> None:
        folder = os.environ["CELEB_BASIS_COMFYUI"]
        sys.path.insert(0, folder)
        # Weights in float32: on the CPU it would use float16, for the comparison's rows as well.
        sys.argv = [sys.argv[0], "--cpu", "--fp32-text-enc"]
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.sd
        from comfyui_version import __version__

        self.version = __version__
        embeddings = task.folder / "embeddings"
        embeddings.mkdir()
        for files in task.files.values():
            for file in files:
                (embeddings / file.name).write_bytes(file.read_bytes())
        self.clip = _clip(comfy.sd, task, str(embeddings))

    def vectors(self, name: str) -> dict[str, torch.Tensor]:
        """Token vectors of one identity, by text encoder."""
        tokens = self.clip.tokenize(f"embedding:{name}")
        return {
            f"clip_{which}": torch.stack([token for token, *_ in chunks[0] if torch.is_tensor(token)])
            for which, chunks in tokens.items()
        }

    def encode(self, prompt: str) -> dict[str, torch.Tensor]:
        # What the node CLIPTextEncode does.
        """The conditioning of a prompt, by its part."""
        ((states, more),) = self.clip.encode_from_tokens_scheduled(self.clip.tokenize(prompt), show_pbar=False)
        return {"states": states} | ({"pooled": more["pooled_output"]} if len(self._encoders()) > 1 else {})

    def table(self, encoder: str) -> torch.Tensor:
        """The token embeddings of a text encoder, ``(V, D)``."""
        model = getattr(self.clip.cond_stage_model, encoder)
        weight: torch.Tensor = model.transformer.get_input_embeddings().weight
        return weight

    def token_ids(self, encoder: str, word: str) -> list[int]:
        """Token ids of a word, without special tokens."""
        return plain_ids(getattr(self.clip.tokenizer, encoder).tokenizer, word)

    def _encoders(self) -> list[str]:
        return [which for which in _FOLDERS if hasattr(self.clip.cond_stage_model, which)]


class WithNodes(ComfyUI):
    """The same with what the node *Person to prompt* calls, and the identities in a library of its own."""

    name = "ComfyUI with the nodes"

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        from celeb_basis.hosts.comfyui.model import ComfyClip
        from celeb_basis.hosts.comfyui.people import People
        from celeb_basis.identities.library import Library

        files = next(iter(task.files.values()))
        self.text, self.people = ComfyClip(self.clip), People(Library(files[0].parent), {})

    def vectors(self, name: str) -> dict[str, torch.Tensor]:
        """Token vectors of one identity, by text encoder."""
        found = self.people.tokens(f"<{name}>", self.text)[f"<{name}>"]
        return {encoder.name: rows for encoder, rows in zip(self.text.encoders, found, strict=True)}

    def encode(self, prompt: str) -> dict[str, torch.Tensor]:
        """The conditioning of a prompt, by its part."""
        from celeb_basis.hosts.comfyui.host import names_as_vectors

        with names_as_vectors(self.text, self.people.tokens(prompt, self.text)) as rewrite:
            return super().encode(rewrite(prompt))


def _clip(sd: Any, task: Task, embeddings: str) -> Any:
    """The task's text encoders, with their sizes given explicitly; for SD1 its own loader creates and fills them."""
    encoders = ("clip_l",) if task.family == "sd1" else ("clip_l", "clip_g")
    folders = {which: task.model / _FOLDERS[which] for which in encoders}
    configs = {which: json.loads((folder / "config.json").read_text("utf-8")) for which, folder in folders.items()}
    sizes = {f"{which}_model_config": {key: config[key] for key in _SIZES} for which, config in configs.items()}
    weights = {which: _weights(folder / "model.safetensors") for which, folder in folders.items()}
    if task.family == "sd1":
        # Its loader writes the number of positions into "model_config", and then uses that as the encoder's config.
        options = {"model_config": sizes["clip_l_model_config"]}
        return sd.load_text_encoder_state_dicts([weights["clip_l"]], embeddings, model_options=options)

    # Its loader distinguishes the two by the number of layers, of which a small model has too few.
    class Target:
        params: dict[str, Any] = {}  # noqa: RUF012 - the shape that sd.CLIP requires
        clip = sd.sdxl_clip.SDXLClipModel
        tokenizer = sd.sdxl_clip.SDXLTokenizer

    clip = sd.CLIP(Target, embedding_directory=embeddings, model_options=sizes)
    for which, state in weights.items():
        missing, unexpected = getattr(clip.cond_stage_model, which).load_sd(state)
        if unexpected or [key for key in missing if "text_projection" not in key and "logit_scale" not in key]:
            raise SystemExit(f"{which} was not loaded completely: {missing} are missing, {unexpected} are unknown")
    return clip


def _weights(file: Any) -> dict[str, torch.Tensor]:
    return {key: value.float() for key, value in load_file(str(file)).items()}


if __name__ == "__main__":
    nodes = "--nodes" in sys.argv
    if nodes:
        sys.argv.remove("--nodes")
    main(WithNodes if nodes else ComfyUI)
