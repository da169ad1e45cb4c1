"""Inside ComfyUI: a checkpoint with the host for it, and what its checks have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from support.comfyui_inside import loaded

from celeb_basis.errors import HostError
from celeb_basis.hosts.comfyui.host import ComfyHost
from celeb_basis.hosts.comfyui.model import ComfyModel
from celeb_basis.hosts.comfyui.modules import Source

PlaceholderTokens = dict[str, list[torch.Tensor]]


@dataclass
class Loaded:
    """A checkpoint with the host for it."""

    base: Path
    name: str

    def __post_init__(self) -> None:
        self.model, self.clip, self.vae = loaded(self.name)
        self.file = self.base / "models" / "checkpoints" / f"{self.name}.safetensors"
        self.source = Source(self.name, self.file)
        self.host = self.host_of(self.model)

    def host_of(self, model: Any, clip: Any = None, vae: Any = None) -> ComfyHost:
        return ComfyHost(ComfyModel(model, clip or self.clip, vae or self.vae, self.source, self.source))

    @property
    def modules(self) -> tuple[torch.nn.Module, ...]:
        return self.model.model.diffusion_model, self.clip.cond_stage_model

    def identities(self) -> list[int]:
        return [id(tensor) for part in self.modules for tensor in (*part.parameters(), *part.buffers())]

    def values(self) -> list[bytes]:
        """All weights' bytes: some that are in no file are whatever was in memory, NaN among it."""
        tensors = [tensor for part in (*self.modules, self.vae.first_stage_model) for tensor in part.parameters()]
        return [tensor.detach().clone().contiguous().view(-1).view(torch.uint8).numpy().tobytes() for tensor in tensors]


def some_words(host: ComfyHost, count: int = 2, seed: int = 0) -> PlaceholderTokens:
    """``<v>`` with vectors of about the size that a learned person's have."""
    generator = torch.Generator().manual_seed(seed)
    return {"<v>": [0.04 * torch.randn(count, encoder.width, generator=generator) for encoder in host.text_encoders]}


def noisy(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(seed)), torch.tensor([37, 801])


def gradient(host: ComfyHost, words: PlaceholderTokens) -> torch.Tensor:
    """That of a number that depends on every part of the model, to the vectors of all encoders, in one row."""
    vectors = [one.clone().requires_grad_() for one in words["<v>"]]
    conditioning = host.encode_prompts(["a photo of <v>", "(<v>:1.2) in snow"], {"<v>": vectors})
    found = torch.autograd.grad(host.predict(*noisy(), conditioning).square().sum(), vectors)
    return torch.cat([one.flatten() for one in found])


def plain_prediction(one: Loaded, host: ComfyHost | None = None) -> torch.Tensor:
    host = host or one.host
    return host.predict(*noisy(), host.encode_prompts(["<v>", "a tree"], some_words(host)))


def refused(expected: str, action: Callable[[], Any]) -> None:
    text = ""
    try:
        action()
    except HostError as error:
        text = str(error)
    assert expected in text, text or f"nothing was refused: {expected}"
    assert text.endswith("."), text


def with_lora(one: Loaded) -> tuple[Any, Any]:
    """MODEL and CLIP with a patch on a weight of each, as *Load LoRA* makes them."""
    model, clip = one.model.clone(), one.clip.clone()
    for patcher, module in ((model, one.model.model), (clip.patcher, one.clip.cond_stage_model)):
        attention = ("to_k.weight", "self_attn.k_proj.weight")
        key, weight = next((name, w) for name, w in module.named_parameters() if name.endswith(attention))
        generator = torch.Generator().manual_seed(3)
        assert patcher.add_patches({key: ("diff", (0.2 * torch.randn(weight.shape, generator=generator),))})
    return model, clip
