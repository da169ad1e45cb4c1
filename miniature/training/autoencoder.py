"""The autoencoder: Stable Diffusion's architecture with fewer channels, trained on the world's pictures alone.

``python -m miniature.training.autoencoder POOL`` trains it, or goes on where it was stopped. ``--finish`` ends it: the
encoder is kept as it is, with which latents are made, and the decoder may be trained on with ``--decoder``.

No face network has a part in it. Heads count more than what is behind them; where they are, the renderer knows.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from celeb_basis.faces.network import Floats, Pixels
from miniature.training.autoencoder_start import start_with_colors
from miniature.training.checkpoints import load_state, save_state
from miniature.training.discriminator import Adversary
from miniature.training.hardware import half_is_fast, half_precision, ready_for_half
from miniature.training.muon import Muon, split
from miniature.training.places import work_folder
from miniature.training.shards import shard_paths
from miniature.world.pool import read_shard, reduced
from miniature.world.scenes import SIDE

_log = logging.getLogger(__name__)

CONFIG: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "sample_size": SIDE,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [64, 64, 64, 128],
    "layers_per_block": 1,
    "norm_num_groups": 32,
    "scaling_factor": 1.0,
    "force_upcast": False,
}
CROPS = ((64, 6), (64, 6), (96, 3), (64, 6), (64, 6), (128, 2))
"""Side and number of the crops of successive steps on a CPU. Small crops are cheap, large ones hold whole heads."""
WHOLE = 24
"""Pictures of a step on a GPU, which has time for whole ones."""
RATE, MATRIX_RATE = 3e-4, 5e-4
"""Of ends, norms and biases (AdamW), and of the inner layers' weights (Muon)."""
KL = 1e-4
EDGES = 0.6
HEADS = 2.0
"""How much more a pixel of a head counts."""
NOISE = 0.1
"""Noise on the latents in training, because those of a denoiser have small errors. Their own deviation is 1 to 1.7."""
_LIKELY_HEAD = 0.8
_SEED = 11


@dataclass(frozen=True)
class Run:
    """How long, on what."""

    minutes: float
    steps: int
    decoder: bool = False
    """The decoder alone."""
    sharper: bool = False
    """With a discriminator of patches."""
    device: str = "cpu"
    side: int = SIDE
    """Of the pictures."""


def new_autoencoder(side: int = SIDE) -> Any:
    """The untrained network, for pictures of ``side`` pixels."""
    from diffusers import AutoencoderKL

    torch.manual_seed(_SEED)
    model = AutoencoderKL.from_config({**CONFIG, "sample_size": side})
    start_with_colors(model)
    return model


def load_autoencoder(path: Path, side: int = SIDE) -> Any:
    """The network with the weights of a training state, for use."""
    model = new_autoencoder(side).to(memory_format=torch.channels_last)
    load_state(path, {"model": model})
    return model.eval().requires_grad_(False)


def trained_autoencoder(folder: Path) -> Any:
    """The encoder with which the latents were made, and the decoder with its later training."""
    decoder = folder / "decoder.safetensors"
    return load_autoencoder(decoder if decoder.exists() else folder / "encoder.safetensors")


class Pictures:
    """Pictures of the pool in memory, and the heads in them."""

    def __init__(self, folder: Path, most: int, side: int = SIDE) -> None:
        """Read shards until there are ``most`` pictures, and reduce them to ``side`` pixels."""
        self._folder, self._most, self._side = folder, most, side
        self._read: set[Path] = set()
        self.pictures: Pixels = np.zeros((0, side, side, 3), np.uint8)
        self.boxes: Floats = np.zeros((0, 2, 3), np.float32)
        self.refresh()

    def refresh(self) -> None:
        """Read shards that came since, if there is room."""
        for path in shard_paths(self._folder):
            if len(self.pictures) >= self._most:
                return
            if path not in self._read:
                self._read.add(path)
                shard = read_shard(path)
                self.pictures = np.concatenate([self.pictures, reduced(shard.pictures, self._side)])
                self.boxes = np.concatenate([self.boxes, shard.boxes * (self._side / SIDE)])

    def crops(self, rng: np.random.Generator, side: int, count: int) -> tuple[Tensor, Tensor]:
        """Random crops, most of them around a head, at most as large as the pictures.

        Returns:
            ``(count, 3, side, side)`` in -1 to 1, and the weights ``(count, 1, side, side)`` of their pixels.
        """
        side = min(side, self._side)
        crops = np.zeros((count, side, side, 3), np.uint8)
        weights = np.ones((count, side, side, 1), np.float32)
        for number, row in enumerate(rng.integers(len(self.pictures), size=count)):
            room = self._side - side
            left, top = (int(value) for value in rng.integers(0, room + 1, 2))
            box = self.boxes[row, int(rng.integers(2))]
            if box[2] > 0 and room and rng.random() < _LIKELY_HEAD:
                middle = box[:2] + box[2] * rng.uniform(0.25, 0.75, 2)
                left, top = (int(np.clip(round(float(value) - side / 2), 0, room)) for value in middle)
            crops[number] = self.pictures[row, top : top + side, left : left + side]
            for x, y, width in self.boxes[row]:
                if width > 0:
                    rows = slice(max(0, int(y - top)), max(0, int(y + width - top)))
                    columns = slice(max(0, int(x - left)), max(0, int(x + width - left)))
                    weights[number, rows, columns] = 1 + HEADS
        return _planes(crops) / 127.5 - 1, _planes(weights / weights.mean())


def _planes(values: Any) -> Tensor:
    return torch.from_numpy(values).permute(0, 3, 1, 2).float()


def through(model: Any, pictures: Tensor, seed: int, *, decoder: bool = False) -> tuple[Tensor, Any]:
    """Pictures encoded, with noise on the latents, and decoded; and the latents' distribution.

    With ``decoder`` the encoder gets no gradient.
    """
    device = pictures.device
    with torch.set_grad_enabled(not decoder), half_precision(device.type):
        posterior = model.encode(pictures).latent_dist
    generator = torch.Generator(device).manual_seed(seed)
    spread = NOISE if decoder else (posterior.var + NOISE**2).sqrt()
    with half_precision(device.type):
        noise = torch.randn(posterior.mean.shape, generator=generator, device=device)
        return model.decode(posterior.mean + spread * noise).sample.float(), posterior


def losses(decoded: Tensor, pictures: Tensor, weights: Tensor, posterior: Any = None) -> dict[str, Tensor]:
    """The terms of the loss of one batch, each with its factor; with a ``posterior`` how far it is from a normal one."""
    parts = {
        "l1": ((decoded - pictures).abs() * weights).mean(),
        "edges": EDGES * edges_apart(decoded, pictures, weights),
    }
    if posterior is not None:
        parts["kl"] = KL * 0.5 * (posterior.mean.square() + posterior.logvar.exp() - 1 - posterior.logvar).mean()
    return parts


def edges_apart(one: Tensor, other: Tensor, weights: Tensor) -> Tensor:
    """Mean difference of the differences of neighboring pixels, at full and at half size: what a face is known by."""
    total = torch.zeros((), device=one.device)
    for factor in (1, 2):
        apart = F.avg_pool2d(one - other, factor)
        counted = F.avg_pool2d(weights, factor)
        for axis in (2, 3):
            difference = apart.diff(dim=axis).abs()
            total = total + factor * (difference * counted.narrow(axis, 1, difference.shape[axis])).mean()
    return total


def train(folder: Path, pool: Path, run: Run, pictures: int) -> None:
    """Train up to step ``run.steps``, for ``run.minutes`` at most, and save the state in ``folder``."""
    model = ready_for_half(new_autoencoder(), run.device).to(run.device, memory_format=torch.channels_last)
    trained = list(model.parameters())
    if run.decoder:
        trained = [*model.decoder.parameters(), *model.post_quant_conv.parameters()]
    ours = {id(value) for value in trained}
    inner, rest = (
        [value for value in part if id(value) in ours] for part in split(model, ("conv_in", "conv_out", "quant_conv"))
    )
    optimizers = (
        Muon(inner, MATRIX_RATE, weight_decay=1e-3, half=half_is_fast(run.device)),
        torch.optim.AdamW(rest, lr=RATE, betas=(0.9, 0.99), weight_decay=1e-3),
    )
    path, step = folder / ("decoder.safetensors" if run.decoder else "autoencoder-state.safetensors"), 0
    if path.exists():
        step = load_state(path, {"model": model}, optimizers)["step"]
    elif run.decoder:
        load_state(folder / "encoder.safetensors", {"model": model})
    data = Pictures(pool, pictures, run.side)
    shapes = CROPS if run.device == "cpu" else ((run.side, WHOLE),)
    adversary = Adversary(folder, run.device) if run.sharper else None

    def save() -> None:
        save_state(path, {"model": model}, optimizers, {"step": step})
        if adversary:
            adversary.save()

    begun = saved = time.monotonic()
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    _log.info("training on %d pictures from step %d", len(data.pictures), step)
    while step < run.steps and time.monotonic() - begun < 60 * run.minutes and not stopped:
        rng = np.random.default_rng([_SEED, step])
        share = max(step / run.steps, (time.monotonic() - begun) / (60 * run.minutes))
        factor = min(1, (step + 1) / 100) * (0.5 + 0.5 * np.cos(np.pi * share)) + 0.02
        for optimizer, top in zip(optimizers, (MATRIX_RATE, RATE), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = top * factor
        crops, weights = (part.to(run.device) for part in data.crops(rng, *shapes[step % len(shapes)]))
        crops = crops.contiguous(memory_format=torch.channels_last)
        decoded, posterior = through(model, crops, step, decoder=run.decoder)
        parts = losses(decoded, crops, weights, None if run.decoder else posterior)
        loss = torch.stack(list(parts.values())).sum()
        if adversary:
            parts["adversary"] = adversary.term(decoded, crops, loss, model.decoder.conv_out.weight)
            loss = loss + parts["adversary"]
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if adversary:
            parts["unlike"] = adversary.learn(decoded, crops)
        step += 1
        if step % 50 == 0:
            shown = {name: round(float(value.detach()), 4) for name, value in parts.items()}
            facts = {"step": step, "seconds": round(time.monotonic() - begun), **shown}
            _log.info("%s", json.dumps(facts))
        if time.monotonic() - saved > 60:
            saved = time.monotonic()
            save()
            data.refresh()
    save()
    _log.info("stopped at step %d", step)


def finish(folder: Path) -> None:
    """Keep the encoder as it is, as ``encoder.safetensors``."""
    model = new_autoencoder()
    step = load_state(folder / "autoencoder-state.safetensors", {"model": model})["step"]
    save_state(folder / "encoder.safetensors", {"model": model}, (), {"step": step})


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pool", type=Path, help="folder of miniature.world.pool")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--steps", type=int, default=20000, help="where the learning rate reaches its end")
    parser.add_argument("--pictures", type=int, default=8192, help="how many are kept in memory")
    parser.add_argument("--side", type=int, default=SIDE, help="smaller pictures, for a proof on a CPU (%(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--decoder", action="store_true", help="the decoder alone, behind the finished encoder")
    parser.add_argument("--sharper", action="store_true", help="the decoder against a discriminator of patches")
    parser.add_argument("--finish", action="store_true", help="afterwards, the encoder is finished")
    parser.add_argument("--device", default="cpu", help="cuda to train on a GPU")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    folder = work_folder()
    if arguments.sharper and not arguments.decoder:
        parser.error("--sharper goes with --decoder: latents are made of what the encoder keeps without it")
    run = Run(
        arguments.minutes, arguments.steps, arguments.decoder, arguments.sharper, arguments.device, arguments.side
    )
    train(folder, arguments.pool, run, arguments.pictures)
    if arguments.finish:
        finish(folder)


if __name__ == "__main__":
    main()
