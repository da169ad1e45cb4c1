"""The denoiser: Stable Diffusion 1's UNet with fewer channels, trained on the pool's latents, the text encoder frozen.

``python -m miniature.training.denoiser --bank BANK`` trains it, or goes on where it was stopped. SIGTERM stops it cleanly.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from celeb_basis.files import write_text
from miniature.training.checkpoints import follow, load_state, save_state
from miniature.training.diffusion import TIMESTEPS, alphas_bar, noised, sample
from miniature.training.hardware import half_is_fast, ready_for_half
from miniature.training.latent_scale import LatentScale
from miniature.training.muon import Muon, split
from miniature.training.places import face_network, work_folder
from miniature.training.shards import EXTRAS_FROM, PORTRAITS_FROM, Shard, read_shard, shard_number, shard_paths
from miniature.training.text_model import Tokens, WorldText, load_text
from miniature.training.unet import SIZES, Beside, Gradients, Part, new_unet, unet_config

_log = logging.getLogger(__name__)

EMPTY_SHARE = 0.12
FACES = 4.0
"""By how much more the error counts where a face is seen: it is small, and people differ in it."""
EXTRAS = 0.2
"""Share of extras in portraits, where a share of portraits is asked for and there are both kinds."""
BRIEF = 0.6
"""Share of named people's portraits that get the shortest of their captions, mostly the name alone: who is described besides
can be drawn without knowing the name."""
DECIDING = (0.02, 0.5)
"""Shares of the schedule between which the last of a person is lost: above, the name says enough by now."""
ANYWHERE = 0.25
"""Share of a batch whose timesteps lie anywhere; the others lie there."""
ELSEWHERE = 0.25
"""Share of windows that lie anywhere, so that what hands hold is seen, too."""
FALLING = 0.35
"""Last part of a run of so many minutes, in which the rates fall."""

_KINDS = (_SCENE, _NAMED, _EXTRA) = range(3)
"""What a picture is: a scene, or a portrait of a named person or of an extra."""

_ENDS = ("conv_in", "conv_out", "time_emb")
_SEED = 14


@dataclass(frozen=True)
class Plan:
    """Settings of the training."""

    steps: int
    batch: int = 64
    rate: float = 8e-4
    """Of ends, norms and biases (AdamW)."""
    matrix_rate: float = 2e-3
    """Of the inner layers' weights (Muon)."""
    processes: int = 1
    """That compute parts of a batch side by side, one core each."""
    compiled: bool = False
    """Compile the UNet first: minutes of waiting, then a quarter faster."""
    decay_from: int = 0
    """Step from which the rates fall to nothing at ``steps``; 0 for never."""
    average: float = 0.999
    faces: float = 0.0
    """By how much more the error counts where a face is seen."""
    window: int = 0
    """Side of the square of latents that a step sees, most of them around a face; 0 for whole pictures."""
    portraits: float | None = None
    """Share of pictures from shards of portraits, which teach soonest who is who; by default that of the pool."""
    save_seconds: float = 180
    look_seconds: float = 1500
    minutes: float = 0.0
    """End after so long, whatever ``steps`` says, with rates that fall to nothing in the last part; 0 for never."""
    falling: bool = True
    """Whether the rates fall in a run of so many minutes; not where another run follows."""
    device: str = "cpu"
    """``cuda`` for one part on a GPU."""
    half: bool = False
    """Compute in bfloat16, keeping the weights in float32."""


class Data:
    """The pool in the device's memory, growing as shards come."""

    def __init__(self, folder: Path, empty: Tensor, device: str) -> None:
        """``empty`` are the ``(77,)`` ids of the empty caption."""
        self._folder, self._device = folder, device
        self._empty = empty.int().to(device)
        self._read: list[Path] = []
        self._latents = torch.zeros(0, dtype=torch.float16, device=device)
        self._captions = torch.zeros(0, dtype=torch.int32, device=device)
        self._faces = torch.zeros(0, dtype=torch.bool, device=device)
        self._kinds = np.zeros(0, np.int64)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one picture's latents, ``(C, h, w)``."""
        return tuple(self._latents.shape[1:])

    def refresh(self) -> int:
        """Load new shards; returns the number of pictures."""
        if new := [path for path in shard_paths(self._folder) if path not in self._read]:
            self._read += new
            shards = [read_shard(path) for path in new]
            parts = (
                [shard.latents for shard in shards],
                [shard.captions for shard in shards],
                [_no_faces(shard) if shard.faces is None else shard.faces for shard in shards],
            )
            held = (self._latents, self._captions, self._faces)
            self._latents, self._captions, self._faces = (
                torch.cat([*([before] if len(before) else []), *(part.to(self._device) for part in more)])
                for before, more in zip(held, parts, strict=True)
            )
            kinds = [
                np.full(len(shard.latents), sum(shard_number(path) >= first for first in (PORTRAITS_FROM, EXTRAS_FROM)))
                for path, shard in zip(new, shards, strict=True)
            ]
            self._kinds = np.concatenate([self._kinds, *kinds])
        return len(self._latents)

    def batch(
        self, rng: np.random.Generator, count: int, portraits: float | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Raw latents, the ``(count, 77)`` ids of a caption each, some of them empty, and ``(count, h, w)`` where faces are.

        ``portraits`` is the share of pictures from shards of portraits, a part of them (:data:`EXTRAS`) of extras; by
        default pictures are drawn as often as they are in the pool.
        """
        rows, which = rng.integers(len(self._latents), size=count), rng.integers(self._captions.shape[1], size=count)
        if portraits is not None:
            rows = self._drawn(portraits, rng, count)
        place, number = (torch.from_numpy(index).to(self._device) for index in (rows, which))
        brief = torch.from_numpy((self._kinds[rows] == _NAMED) & (rng.random(count) < BRIEF)).to(self._device)
        shortest = (self._captions[place] != self._empty[-1]).sum(2).argmin(1)
        number = torch.where(brief, shortest, number)
        untold = torch.from_numpy(rng.random(count) < EMPTY_SHARE).to(self._device)
        ids = torch.where(untold[:, None], self._empty, self._captions[place, number])
        return self._latents[place], ids.long(), self._faces[place]

    def _drawn(self, portraits: float, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """``(count,)`` rows, so many of portraits as far as the pool has both kinds."""
        places = [np.flatnonzero(self._kinds == kind) for kind in _KINDS]
        here = np.array([len(own) > 0 for own in places])
        extras = (EXTRAS if here[_NAMED] else 1.0) if here[_EXTRA] else 0.0
        shares = here * np.array([1 - portraits, portraits * (1 - extras), portraits * extras])
        shares = shares if shares.any() else here.astype(np.float64)
        kinds = rng.choice(_KINDS, count, p=shares / shares.sum())
        within = rng.integers([len(places[kind]) for kind in kinds])
        return np.array([places[kind][row] for kind, row in zip(kinds, within, strict=True)])


def windows(latents: Tensor, faces: Tensor, side: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Cut a square out of each picture's latents, around a random place of a face.

    Where there is no face, and in :data:`ELSEWHERE` of the others, it is cut out anywhere.

    Args:
        latents: ``(N, C, h, w)``.
        faces: ``(N, h, w)`` bool.
        side: Of the squares, at most ``h`` and ``w``.
        rng: Chooses the places.

    Returns:
        ``(N, C, side, side)`` and ``(N, side, side)``.
    """
    count, height, width = faces.shape
    chance = torch.from_numpy(rng.random((count, height * width), np.float32)).to(faces.device)
    near = torch.from_numpy(rng.random((count, 1), np.float32) >= ELSEWHERE).to(faces.device)
    # Faces come first, and chance orders the places of each kind.
    place = ((faces.flatten(1) & near) + chance).argmax(1)
    corners = [
        (middle - side // 2).clamp(0, room - side)[:, None] + torch.arange(side, device=faces.device)
        for middle, room in ((place // width, height), (place % width, width))
    ]
    rows, columns = corners[0][:, :, None], corners[1][:, None, :]
    which = torch.arange(count, device=faces.device)[:, None, None]
    return latents.permute(0, 2, 3, 1)[which, rows, columns].permute(0, 3, 1, 2), faces[which, rows, columns]


def _no_faces(shard: Shard) -> Tensor:
    count, _, height, width = shard.latents.shape
    return torch.zeros(count, height, width, dtype=torch.bool)


class Trainer:
    """The networks in training, their moving averages, and their state on the disk."""

    def __init__(self, folder: Path, plan: Plan, text: WorldText, config: dict[str, Any]) -> None:
        """Read or begin the training in a folder.

        Args:
            folder: Where ``text.safetensors``, ``latent-scale.json`` and ``pool/`` are, and where the state is written.
            plan: The settings.
            text: The text encoder, whose weights are loaded.
            config: Of the UNet.
        """
        self.folder, self.plan, self.tokens = folder, plan, Tokens()
        self.data = Data(folder / "pool", self.tokens([""])[0], plan.device)
        while not (self.data.refresh() and (folder / "latent-scale.json").exists()):
            time.sleep(1)
        self.scale = LatentScale.read(folder / "latent-scale.json")
        self.text = text.requires_grad_(False).to(plan.device)
        self.unet = new_unet(config).to(plan.device, memory_format=torch.channels_last)
        if plan.half:
            ready_for_half(self.unet, plan.device)
        load_state(folder / "text.safetensors", {"model": self.text})
        self.average = copy.deepcopy(self.unet)
        options = {"half": plan.half, "compiled": plan.compiled}
        self._gradients = Gradients(self.unet, self.text, device=plan.device, **options)
        self._beside = [
            Beside(config, self.unet, folder / "text.safetensors", text.used, **options)
            for _ in range(plan.processes - 1)
        ]
        inner, rest = split(self.unet, _ENDS)
        self._tops = (plan.matrix_rate, plan.rate)
        workers = ThreadPoolExecutor(plan.processes)
        self._optimizers = (
            Muon(inner, plan.matrix_rate, weight_decay=0.01, workers=workers, half=plan.half),
            torch.optim.AdamW(rest, lr=plan.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True),
        )
        self._weights = list(self.unet.parameters())
        self._bars = alphas_bar().to(plan.device)
        self.step, self.seconds, self.share = 0, 0.0, 0.0
        self._path = folder / "denoiser-state.safetensors"
        if self._path.exists():
            facts = load_state(self._path, self._modules(), self._optimizers)
            self.step, self.seconds = facts["step"], facts["seconds"]

    def one_step(self) -> Tensor:
        """Train on one batch and return its loss. The batch depends only on the seed, the step and the size of the pool."""
        rng = np.random.default_rng([_SEED, self.step])
        generator = torch.Generator(self.plan.device).manual_seed(int(rng.integers(2**62)))
        raw, ids, faces = self.data.batch(rng, self.plan.batch, self.plan.portraits)
        if self.plan.window:
            raw, faces = windows(raw, faces, self.plan.window, rng)
        latents = self.scale.standardized(raw)
        noise = torch.randn(latents.shape, generator=generator, device=latents.device)
        # Towards the end more evenly, since every step of sampling counts then.
        anywhere = 1 - (1 - ANYWHERE) * max(0.5, self._falling())
        times = draw_timesteps(len(latents), generator, anywhere)
        noisy, velocity = noised(latents, noise, self._bars[times])
        counted, count = counted_more(faces, self.plan.faces), self.plan.processes
        own, *others = (
            Part(noisy[every], times[every], velocity[every], ids[every], counted[every], len(ids[every]) / len(ids))
            for every in (slice(first, None, count) for first in range(count))
        )
        for process, part in zip(self._beside, others, strict=True):
            process.begin(part)
        done = [self._gradients(own), *(process.end() for process in self._beside)]
        for weight, *shares in zip(self._weights, *(gradients for _, gradients in done), strict=True):
            weight.grad = torch.stack(shares).sum(0) if len(shares) > 1 else shares[0]
        for optimizer, top in zip(self._optimizers, self._tops, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = top * self._factor()
        nn.utils.clip_grad_norm_(self._weights, 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
        self.step += 1
        follow(self.average, self.unet, min(self.plan.average, (1 + self.step) / (20 + self.step)))
        return torch.stack([loss for loss, _ in done]).sum()

    def save(self) -> None:
        """Write the whole state."""
        save_state(self._path, self._modules(), self._optimizers, {"step": self.step, "seconds": self.seconds})

    def draw(self, prompts: list[str], seed: int, *, steps: int = 12, guidance: float = 2.5) -> Tensor:
        """Generate raw latents ``(N, C, h, w)`` for prompts with the averaged weights."""
        with torch.no_grad():
            states, empty = (self.text(self.tokens(texts).to(self.plan.device)) for texts in (prompts, [""]))
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(len(prompts), *self.data.shape, generator=generator).to(states.device)
        denoise = lambda x, t, c: self.average(x.contiguous(memory_format=torch.channels_last), t, c).sample  # noqa: E731
        return self.scale.raw(sample(denoise, states, empty, noise, steps=steps, guidance=guidance)).cpu()

    def close(self) -> None:
        """End the processes beside this one."""
        for process in self._beside:
            process.close()

    def _modules(self) -> dict[str, nn.Module]:
        return {"unet": self.unet, "unet_ema": self.average}

    def _factor(self) -> float:
        return min(1.0, (self.step + 1) / 200) * self._falling()

    def _falling(self) -> float:
        """Factor of the learning rates: 1 until they begin to fall, 0 at the end."""
        if self.plan.minutes and not self.plan.falling:
            return 1.0
        if self.plan.minutes:
            return min(1.0, max(0.0, (1 - self.share) / FALLING))
        if not self.plan.decay_from or self.step < self.plan.decay_from:
            return 1.0
        return max(0.0, (self.plan.steps - self.step) / max(1, self.plan.steps - self.plan.decay_from))


def draw_timesteps(count: int, generator: torch.Generator, anywhere: float = ANYWHERE) -> Tensor:
    """``(count,)`` timesteps in random order, most of them in :data:`DECIDING`, the others anywhere.

    Both parts are stratified.
    """
    device, low, high = generator.device, *DECIDING
    free = round(anywhere * count)
    spread = [
        (torch.arange(n, device=device) + torch.rand(n, generator=generator, device=device)) / max(1, n)
        for n in (free, count - free)
    ]
    share = torch.cat([spread[0], low + (high - low) * spread[1]])
    times = (share * TIMESTEPS).long().clamp(max=TIMESTEPS - 1)
    return times[torch.randperm(count, generator=generator, device=device)]


def counted_more(faces: Tensor, extra: float) -> Tensor:
    """Weights ``(N, 1, h, w)`` of mean 1, larger by the factor ``1 + extra`` where ``(N, h, w)`` ``faces`` is true."""
    weights = 1 + extra * faces[:, None].float()
    return weights / weights.mean()


def train(trainer: Trainer, look: Callable[[Trainer], dict[str, float]]) -> None:
    """Train to step ``plan.steps``, or for ``plan.minutes``, with a log in ``log.jsonl``, and ``look`` now and then."""
    folder, plan = trainer.folder, trainer.plan
    write_text(folder / "pid", f"{os.getpid()}\n")
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    begun = saved = looked = time.monotonic()
    before, losses = trainer.seconds, []
    while (plan.minutes or trainer.step < plan.steps) and trainer.share < 1 and not stopped:
        losses.append(trainer.one_step())
        now = time.monotonic()
        trainer.seconds = before + now - begun
        if plan.minutes:
            trainer.share = (now - begun) / (60 * plan.minutes)
        if trainer.step % 100 == 0:
            pictures = trainer.data.refresh()
            facts = {"step": trainer.step, "seconds": round(trainer.seconds), "pool": pictures}
            _note(folder, {**facts, "loss": round(float(torch.stack(losses).mean()), 4)})
            losses = []
        if now - saved > plan.save_seconds:
            saved = now
            trainer.save()
        if now - looked > plan.look_seconds:
            _note(folder, {"step": trainer.step, "seconds": round(trainer.seconds), **look(trainer)})
            looked = time.monotonic()
    trainer.save()
    trainer.close()


def _note(folder: Path, facts: dict[str, Any]) -> None:
    line = json.dumps({**facts, "at": time.strftime("%H:%M:%S")})
    _log.info("%s", line)
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def _options() -> argparse.ArgumentParser:
    from miniature.world.people import PEOPLE_FILE

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--batch", type=int, default=Plan.batch)
    parser.add_argument("--decay-from", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1, help="side by side, one core each (%(default)s)")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="end after so long, with rates falling in the last third"
    )
    parser.add_argument("--keep-rates", action="store_true", help="that they do not fall: another run follows")
    parser.add_argument("--faces", type=float, default=FACES, help="by how much more faces count (%(default)s)")
    parser.add_argument(
        "--window", type=int, default=0, help="latents around faces that a step sees, cheaper than whole pictures"
    )
    parser.add_argument(
        "--portraits", type=float, help="share of pictures from shards of portraits; by default that of the pool"
    )
    parser.add_argument("--device", default=Plan.device, help="cuda to train on a GPU")
    parser.add_argument("--people", type=Path, default=PEOPLE_FILE)
    parser.add_argument("--names", type=int, help="so many of the named people; all by default")
    parser.add_argument("--bank", type=Path, required=True, help="folder of miniature.world.bank, to judge with")
    parser.add_argument("--size", choices=SIZES, default="small")
    return parser


def _plan(arguments: argparse.Namespace) -> Plan:
    """The plan of a command line; sets up torch for it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest" if arguments.device == "cpu" else "high")
    torch.backends.cudnn.benchmark = arguments.device != "cpu"
    plan = Plan(arguments.steps, batch=arguments.batch, decay_from=arguments.decay_from, compiled=arguments.compiled)
    processes = 1 if arguments.device != "cpu" else max(1, arguments.processes)
    plan = replace(plan, processes=processes, minutes=arguments.minutes, device=arguments.device, faces=arguments.faces)
    plan = replace(plan, half=half_is_fast(arguments.device), falling=not arguments.keep_rates)
    return replace(plan, window=arguments.window, portraits=arguments.portraits)


def main() -> None:
    """Parse the command line and train."""
    from miniature.training.dlib_judge import RecognitionJudge
    from miniature.training.quick_look import QuickLook
    from miniature.world.bank import Bank
    from miniature.world.people import read_people

    arguments = _options().parse_args()
    plan, folder, people = _plan(arguments), work_folder(), read_people(arguments.people)
    names, numbers = people.names[: arguments.names], people.named[: arguments.names]
    text = load_text(folder / "text.safetensors")
    trainer = Trainer(folder, plan, text, unet_config(arguments.size))
    look = QuickLook(folder, Bank(arguments.bank), names, numbers, RecognitionJudge(face_network()))
    train(trainer, look.figures)


if __name__ == "__main__":
    main()
