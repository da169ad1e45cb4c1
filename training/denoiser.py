"""The denoiser: Stable Diffusion 1's UNet, narrow, trained together with the text encoder on the pool.

``python -m training.denoiser --steps 20000`` trains it, or goes on where it stopped; SIGTERM stops it cleanly.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from celeb_basis.files import write_text
from training.captions import caption
from training.checkpoints import follow, load_state, save_state
from training.diffusion import TIMESTEPS, alphas_bar, noised, sample
from training.latent_scale import LatentScale
from training.people import People, read_people
from training.places import work_folder
from training.pool import NOBODY, Shard, read_shard, shard_paths
from training.text_model import WIDTH, Tokens, WorldText, used_tokens

_log = logging.getLogger(__name__)

CONFIG: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [64, 128, 128],
    "layers_per_block": 1,
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 8,
}
EMPTY_SHARE = 0.12
_SEED = 14


@dataclass(frozen=True)
class Plan:
    """How to train."""

    steps: int
    batch: int = 64
    rate: float = 8e-4
    text_rate: float = 1e-4
    table_rate: float = 5e-4
    decay_from: int = 0
    """Step from which the rates fall to nothing at ``steps``; 0 for never."""
    average: float = 0.999
    save_seconds: float = 180
    look_seconds: float = 600


def new_unet() -> Any:
    """The untrained UNet."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(_SEED)
    return UNet2DConditionModel.from_config(CONFIG)


class Data:
    """The pool in memory, growing as shards come."""

    def __init__(self, folder: Path, people: People) -> None:
        self._folder, self._people = folder, people
        self._read: list[Path] = []
        self._shards: list[Shard] = []

    def refresh(self) -> int:
        """Take up new shards; returns how many pictures there are."""
        for path in shard_paths(self._folder):
            if path not in self._read:
                self._read.append(path)
                self._shards.append(read_shard(path))
        return sum(len(shard.scenes) for shard in self._shards)

    def batch(self, rng: np.random.Generator, count: int) -> tuple[Tensor, list[str]]:
        """Raw latents and a caption each, some of them empty."""
        latents, texts = [], []
        for _ in range(count):
            shard = self._shards[int(rng.integers(len(self._shards)))]
            place = int(rng.integers(len(shard.scenes)))
            scene = shard.scenes[place]
            names = [None if person == NOBODY else self._people.names[person] for person in scene.people]
            latents.append(shard.latents[place])
            texts.append("" if rng.random() < EMPTY_SHARE else caption(scene, names, rng))
        return torch.stack(latents), texts


class Trainer:
    """Everything that is trained, its averages, and its state on the disk."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        self.people, self.tokens = read_people(), Tokens()
        self.data = Data(folder / "pool", self.people)
        self.data.refresh()
        self.scale = LatentScale.read(folder / "latent-scale.json")
        self.text = WorldText(used_tokens(self.tokens, self.people.names))
        self.unet = new_unet().to(memory_format=torch.channels_last)
        load_state(folder / "text-state.safetensors", {"model": self.text})
        self.text_average, self.unet_average = copy.deepcopy(self.text), copy.deepcopy(self.unet)
        slow = [value for name, value in self.text.named_parameters() if "token_embedding" not in name]
        self._tops = (plan.rate, plan.text_rate, plan.table_rate)
        self._optimizer = torch.optim.AdamW(
            [
                {"params": list(self.unet.parameters()), "weight_decay": 0.01},
                {"params": slow, "weight_decay": 0.0},
                {"params": [self.text.table.weight], "weight_decay": 0.0},
            ],
            lr=plan.rate,
            betas=(0.9, 0.99),
            fused=True,
        )
        self._bars = alphas_bar()
        self.step, self.seconds = 0, 0.0
        self._path = folder / "denoiser-state.safetensors"
        if self._path.exists():
            facts = load_state(self._path, self._modules(), self._optimizer)
            self.step, self.seconds = facts["step"], facts["seconds"]

    def one_step(self) -> float:
        """Train on one batch; its choices depend on the seed and the step alone (and on the pool's size)."""
        rng = np.random.default_rng([_SEED, self.step])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        raw, texts = self.data.batch(rng, self.plan.batch)
        latents = self.scale.standardised(raw)
        noise = torch.randn(latents.shape, generator=generator)
        # One timestep from each of as many equal parts: the same distribution, less noise.
        spread = (torch.arange(len(latents)) + torch.rand(len(latents), generator=generator)) / len(latents)
        times = (spread * TIMESTEPS).long().clamp(max=TIMESTEPS - 1)
        noisy, velocity = noised(latents, noise, self._bars[times])
        predicted = self.unet(
            noisy.contiguous(memory_format=torch.channels_last), times, self.text(self.tokens(texts))
        ).sample
        loss = F.mse_loss(predicted, velocity)
        for group, top in zip(self._optimizer.param_groups, self._tops, strict=True):
            group["lr"] = top * self._factor()
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([*self.unet.parameters(), *self.text.parameters()], 1.0)
        self._optimizer.step()
        self.step += 1
        decay = min(self.plan.average, (1 + self.step) / (20 + self.step))
        follow(self.unet_average, self.unet, decay)
        follow(self.text_average, self.text, decay)
        return float(loss.detach())

    def save(self) -> None:
        """Write the whole state."""
        save_state(self._path, self._modules(), self._optimizer, {"step": self.step, "seconds": self.seconds})

    def draw(self, prompts: list[str], seed: int, *, steps: int = 12, guidance: float = 2.5) -> Tensor:
        """Raw latents ``(N, 4, 16, 16)`` for prompts, by the averaged weights."""
        with torch.no_grad():
            told = self.text_average(self.tokens(prompts))
            empty = self.text_average(self.tokens([""]))
        noise = torch.randn(len(prompts), 4, 16, 16, generator=torch.Generator().manual_seed(seed))
        denoise = lambda x, t, c: self.unet_average(x.contiguous(memory_format=torch.channels_last), t, c).sample  # noqa: E731
        return self.scale.raw(sample(denoise, told, empty, noise, steps=steps, guidance=guidance))

    def _modules(self) -> dict[str, nn.Module]:
        return {"unet": self.unet, "text": self.text, "unet_ema": self.unet_average, "text_ema": self.text_average}

    def _factor(self) -> float:
        warm = min(1.0, (self.step + 1) / 200)
        if not self.plan.decay_from or self.step < self.plan.decay_from:
            return warm
        left = (self.plan.steps - self.step) / max(1, self.plan.steps - self.plan.decay_from)
        return warm * max(0.0, left)


def train(folder: Path, plan: Plan) -> None:
    """Train towards ``plan.steps``; log lines go to ``log.jsonl`` in ``folder``."""
    from training.quick_look import QuickLook

    trainer, look = Trainer(folder, plan), QuickLook(folder)
    write_text(folder / "pid", f"{os.getpid()}\n")
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    begun = saved = looked = time.monotonic()
    before, losses = trainer.seconds, []
    while trainer.step < plan.steps and not stopped:
        losses.append(trainer.one_step())
        now = time.monotonic()
        trainer.seconds = before + now - begun
        if trainer.step % 100 == 0:
            pictures = trainer.data.refresh()
            facts = {"step": trainer.step, "seconds": round(trainer.seconds), "pool": pictures}
            _note(folder, {**facts, "loss": round(float(np.mean(losses[-100:])), 4)})
        if now - saved > plan.save_seconds:
            saved = now
            trainer.save()
        if now - looked > plan.look_seconds:
            seen = look.figures(trainer)
            _note(folder, {"step": trainer.step, "seconds": round(trainer.seconds), **seen})
            looked = time.monotonic()
    trainer.save()


def _note(folder: Path, facts: dict[str, Any]) -> None:
    line = json.dumps({**facts, "at": time.strftime("%H:%M:%S")})
    _log.info("%s", line)
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--batch", type=int, default=Plan.batch)
    parser.add_argument("--decay-from", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    train(work_folder(), Plan(arguments.steps, batch=arguments.batch, decay_from=arguments.decay_from))


if __name__ == "__main__":
    main()
