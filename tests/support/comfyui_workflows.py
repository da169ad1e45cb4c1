"""Workflows of the nodes that a running ComfyUI is given, and what it says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from support.comfyui_server import Server, Workflow, node_of, shipped

LEARN = "CelebBasisLearnPerson"


def learning(name: str, **inputs: Any) -> Workflow:
    """The workflow that ships, with consent."""
    workflow = shipped("learn_person")
    node_of(workflow, LEARN).update({"name": name, "consent": True, **inputs})
    return workflow


def hashes(server: Server, *, lora: bool = False) -> dict[str, Any]:
    """All weights as ComfyUI has them now, and what is marked on them."""
    workflow = with_hash({"1": shipped("learn_person")["1"]}, lora=lora)
    found: dict[str, Any] = json.loads(server.succeed(workflow)["hash"]["hashes"][0])
    return found


def with_hash(workflow: Workflow, *, lora: bool = False) -> Workflow:
    source = "lora" if lora else "1"
    if lora:
        workflow["lora"] = lora_loader()
    inputs = {"model": [source, 0], "clip": [source, 1], "vae": ["1", 2]}
    return workflow | {"hash": {"class_type": "TestHashOfWeights", "inputs": inputs}}


def lora_loader() -> dict[str, Any]:
    inputs = {"lora_name": "style.safetensors", "strength_model": 1.0, "strength_clip": 1.0}
    return {"class_type": "LoraLoader", "inputs": {**inputs, "model": ["1", 0], "clip": ["1", 1]}}


def shown(server: Server, workflow: Workflow) -> dict[str, list[str]]:
    """The texts on each node of a workflow, which must not fail."""
    texts: dict[str, list[str]] = {}
    with server.listening("texts") as messages:
        prompt = server.queue(workflow, "texts")
        for message in messages:
            if message["type"] == "text":
                texts.setdefault(message["node"], []).append(message["text"])
            elif message["type"] in ("execution_success", "execution_error"):
                break
    ended = server.ended(prompt)
    assert ended.status == "success", ended.messages.get("execution_error")
    return texts


def cancelled(server: Server, workflow: Workflow) -> str:
    """The last text on the node of a workflow that was cancelled in its second step or soon after."""
    text, sent = "", False
    with server.listening("cancel") as messages:
        prompt = server.queue(workflow, "cancel")
        for message in messages:
            if message["type"] == "text":
                text = message["text"]
                if "step 2 of" in text and not sent:
                    sent = True
                    server.call("POST", "/interrupt")
            elif message["type"] in ("execution_interrupted", "execution_success", "execution_error"):
                break
    assert "execution_interrupted" in server.ended(prompt).messages
    return text


def saved_runs(server: Server) -> list[Path]:
    return sorted((server.base / "cache" / "unfinished").glob("[!.]*"))


def save_lora(base: Path) -> None:
    """A LoRA of one layer, in the layout of the trainers."""
    key = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    weight = load_file(str(base / "models" / "checkpoints" / "miniature.safetensors"))[key]
    name = "lora_unet_" + key.removeprefix("model.diffusion_model.").removesuffix(".weight").replace(".", "_")
    generator = torch.Generator().manual_seed(0)
    down = 0.3 * torch.randn(4, weight.shape[1], generator=generator)
    up = 0.3 * torch.randn(weight.shape[0], 4, generator=generator)
    content = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(4.0)}
    save_file(content, str(base / "models" / "loras" / "style.safetensors"))
