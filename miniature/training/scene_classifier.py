"""A small network that names the scene of a picture, trained on the renderer alone, for ``scene`` in the gate.

``python -m miniature.training.scene_classifier FILE --bank BANK`` trains it in a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from celeb_basis.faces.network import Pixels
from miniature.training.checkpoints import load_state, save_state
from miniature.world.bank import Bank
from miniature.world.people import PEOPLE_FILE, read_people
from miniature.world.pool import Sitters
from miniature.world.scenes import BACKDROPS, MEDIA, PLACES, THINGS, Scene

_log = logging.getLogger(__name__)

Part = Literal["medium", "backdrop", "thing", "people"]
PARTS: dict[Part, int] = {"medium": len(MEDIA), "backdrop": len(BACKDROPS), "thing": len(THINGS) + 1, "people": 3}
"""Classes of each part; the last of ``thing`` is nothing."""

_LAYERS = ((24, 2), (48, 2), (48, 1), (96, 2), (96, 1), (160, 2))
"""Channels and strides of the convolutions."""
_SEED = 15
_RATE = 2e-3
_LOG_EVERY = 250


class SceneClassifier(nn.Module):
    """Convolutions over the picture at half its size."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(_SEED)
        layers: list[nn.Module] = []
        before = 3
        for width, stride in _LAYERS:
            layers += [nn.Conv2d(before, width, 3, stride, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            before = width
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4))
        self.out = nn.Linear(before * 16, sum(PARTS.values()))

    def forward(self, pictures: Tensor) -> dict[Part, Tensor]:
        """Logits ``(N, classes)`` of each part, of ``(N, 3, S, S)`` pictures in -1 to 1."""
        logits = self.out(self.body(F.avg_pool2d(pictures, 2)).flatten(1))
        return dict(zip(PARTS, logits.split(list(PARTS.values()), 1), strict=True))


def as_input(pictures: Pixels) -> Tensor:
    """``(N, 3, H, W)`` in -1 to 1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def label(scene: Scene, part: Part) -> int:
    """The right class of a part; -1 where a picture does not show it."""
    if part == "medium":
        return MEDIA.index(scene.medium)
    if part == "people":
        return len(scene.people)
    if part == "thing":
        return -1 if len(scene.people) != 1 else THINGS.index(scene.thing) if scene.thing else len(THINGS)
    # A plain color cannot be recognized in a picture without colors, and in a pasted one there are two.
    colored = scene.backdrop in PLACES or scene.medium in ("photo", "oil painting")
    return BACKDROPS.index(scene.backdrop) if colored and scene.pasted is None else -1


def classifier_loss(logits: dict[Part, Tensor], scenes: Sequence[Scene]) -> Tensor:
    """Sum of the cross-entropies of all parts."""
    losses = [
        F.cross_entropy(values, torch.tensor([label(scene, part) for scene in scenes]), ignore_index=-1)
        for part, values in logits.items()
    ]
    return torch.stack([loss for loss in losses if not bool(loss.isnan())]).sum()


def right(logits: dict[Part, Tensor], scenes: Sequence[Scene], asked: Sequence[Part]) -> np.ndarray:
    """``(N,)`` whether each picture shows the part that it was ``asked`` for."""
    rows = zip(scenes, asked, strict=True)
    return np.array([int(logits[part][row].argmax()) == label(scene, part) for row, (scene, part) in enumerate(rows)])


def load_classifier(path: Path) -> SceneClassifier:
    """Load a trained classifier for inference."""
    model = SceneClassifier()
    load_state(path, {"model": model})
    return model.eval().requires_grad_(False)


def train(
    path: Path, sitters: Sitters, *, pictures: int = 16000, steps: int = 2500, batch: int = 64
) -> dict[str, float]:
    """Train on newly drawn scenes and write ``path``; returns the accuracy of each part on scenes held back."""
    rng = np.random.default_rng(_SEED)
    scenes = [sitters.scene(rng) for _ in range(pictures)]
    pixels = np.stack([sitters.picture(scene, rng)[0] for scene in scenes])
    held = pictures // 10
    model = SceneClassifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=1e-2)
    for step in range(steps):
        rng = np.random.default_rng([_SEED, step])
        rows = rng.integers(held, pictures, batch)
        x = as_input(pixels[rows])
        # What the autoencoder leaves of a picture is a little soft and a little noisy.
        if step % 2:
            x = F.avg_pool2d(x, 3, 1, 1) + 0.05 * torch.from_numpy(rng.standard_normal(x.shape).astype(np.float32))
        for group in optimizer.param_groups:
            group["lr"] = _RATE * (1 - step / steps)
        loss = classifier_loss(model(x), [scenes[row] for row in rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if (step + 1) % _LOG_EVERY == 0:
            _log.info("step %d of %d, loss %.3f", step + 1, steps, float(loss.detach()))
    facts = accuracy(model.eval(), pixels[:held], scenes[:held])
    _log.info("%s", json.dumps(facts))
    save_state(path, {"model": model}, (), facts)
    return facts


@torch.no_grad()
def accuracy(model: SceneClassifier, pixels: Pixels, scenes: Sequence[Scene]) -> dict[str, float]:
    """Share of right answers for each part, where a picture shows it."""
    logits = model(as_input(pixels))
    facts: dict[str, float] = {}
    for part in PARTS:
        shown = [row for row, scene in enumerate(scenes) if label(scene, part) >= 0]
        of_those = {name: values[shown] for name, values in logits.items()}
        answers = right(of_those, [scenes[row] for row in shown], [part] * len(shown))
        facts[part] = round(float(answers.mean()), 3) if shown else 0.0
    return facts


def main() -> None:
    """Train and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--bank", type=Path, required=True)
    parser.add_argument("--people", type=Path, default=PEOPLE_FILE)
    parser.add_argument("--names", type=int)
    parser.add_argument("--pictures", type=int, default=16000)
    parser.add_argument("--steps", type=int, default=2500)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    sitters = Sitters(Bank(arguments.bank), read_people(arguments.people).named[: arguments.names])
    train(arguments.file, sitters, pictures=arguments.pictures, steps=arguments.steps)


if __name__ == "__main__":
    main()
