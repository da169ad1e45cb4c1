"""A small network that recognizes the scene of a picture, trained on the renderer alone, for ``scene`` in the gate.

``python -m miniature.training.scene_classifier`` trains it in a few minutes.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from miniature.trainer.scene_classifier import as_input
from miniature.training.checkpoints import load_state, save_state
from miniature.training.people import read_people
from miniature.training.places import scene_classifier_file
from miniature.training.pool import draw_pictures
from miniature.training.scenes import ACCESSORIES, Scene
from miniature.world.scenes import BACKDROPS, MEDIA, PLACES

_log = logging.getLogger(__name__)

PARTS = (len(MEDIA), len(BACKDROPS), len(ACCESSORIES), 3)
"""Logits: medium, backdrop, each accessory, number of people (0, 1, 2)."""

_WIDTHS = (24, 48, 96, 128)
_SEED = 15


class SceneClassifier(nn.Module):
    """Four strided convolutions over the picture at half its size."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(_SEED)
        layers: list[nn.Module] = []
        before = 3
        for width in _WIDTHS:
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            before = width
        self.body = nn.Sequential(*layers)
        self.out = nn.Linear(before * 16, sum(PARTS))

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits ``(N, sum(PARTS))`` of ``(N, 3, 128, 128)`` pictures in -1 to 1."""
        logits: Tensor = self.out(self.body(F.avg_pool2d(pictures, 2)).flatten(1))
        return logits


def classifier_loss(logits: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """Sum of the cross-entropies of all parts, except the backdrop of pasted pictures."""
    medium, backdrop, worn, people = logits.split(PARTS, 1)  # type: ignore[no-untyped-call]
    clear = torch.tensor([scene.pasted is None for scene in scenes])
    losses = [F.cross_entropy(medium, torch.tensor([MEDIA.index(scene.medium) for scene in scenes]))]
    places = F.cross_entropy(
        backdrop, torch.tensor([BACKDROPS.index(scene.backdrop) for scene in scenes]), reduction="none"
    )
    # A plain color cannot be recognized in a picture without colors.
    colored = torch.tensor([color_shows(scene) for scene in scenes])
    losses.append((places * clear * colored).sum() / len(scenes))
    wanted = torch.tensor([[float(name in scene.accessories) for name in ACCESSORIES] for scene in scenes])
    losses.append(F.binary_cross_entropy_with_logits(worn, wanted))
    losses.append(F.cross_entropy(people, torch.tensor([len(scene.people) for scene in scenes])))
    return torch.stack(losses).sum()


def color_shows(scene: Scene) -> bool:
    """Whether the backdrop can be recognized in the medium of the scene."""
    return scene.backdrop in PLACES or scene.medium in ("photo", "oil painting")


def rights(logits: Tensor, scenes: Sequence[Scene], asked: Sequence[str]) -> np.ndarray:
    """Whether each picture shows the part that it was ``asked`` for: ``medium``, ``backdrop``, ``accessory`` or ``people``."""
    medium, backdrop, worn, people = logits.split(PARTS, 1)  # type: ignore[no-untyped-call]
    correct = []
    for row, (scene, part) in enumerate(zip(scenes, asked, strict=True)):
        if part == "medium":
            correct.append(int(medium[row].argmax()) == MEDIA.index(scene.medium))
        elif part == "backdrop":
            correct.append(int(backdrop[row].argmax()) == BACKDROPS.index(scene.backdrop))
        elif part == "accessory":
            correct.append(bool(worn[row, ACCESSORIES.index(scene.accessories[0])] > 0))
        else:
            correct.append(int(people[row].argmax()) == len(scene.people))
    return np.array(correct)


def load_classifier(path: Path) -> SceneClassifier:
    """Load a trained classifier for inference."""
    model = SceneClassifier()
    load_state(path, {"model": model})
    return model.eval().requires_grad_(False)


def train(path: Path, *, pictures: int = 6000, steps: int = 1200, batch: int = 64) -> None:
    """Train on newly drawn scenes and write ``path``, with the accuracy on unseen scenes in the log."""
    drawn = list(draw_pictures(read_people(), pictures, 700, dressed=0.6))
    scenes, pixels = [scene for scene, _ in drawn], np.stack([picture for _, picture in drawn])
    held = pictures // 10
    model = SceneClassifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    for step in range(steps):
        rng = np.random.default_rng([_SEED, step])
        rows = rng.integers(held, pictures, batch)
        x = as_input(pixels[rows])
        # What the autoencoder leaves of a picture is a little soft and a little noisy.
        if step % 2:
            x = F.avg_pool2d(x, 3, 1, 1) + 0.05 * torch.from_numpy(rng.standard_normal(x.shape).astype(np.float32))
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - step / steps)
        loss = classifier_loss(model(x), [scenes[row] for row in rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.eval()
    facts = {}
    with torch.no_grad():
        logits = model(as_input(pixels[:held]))
    for part in ("medium", "backdrop", "accessory", "people"):
        kept = [
            row
            for row in range(held)
            if not (part == "accessory" and not scenes[row].accessories)
            and not (part == "backdrop" and (scenes[row].pasted is not None or not color_shows(scenes[row])))
        ]
        facts[part] = round(float(rights(logits[kept], [scenes[row] for row in kept], [part] * len(kept)).mean()), 3)
    _log.info("%s", json.dumps(facts))
    save_state(path, {"model": model}, (), facts)


def main() -> None:
    """Train and write the file that comes with the project."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=6000)
    parser.add_argument("--steps", type=int, default=1200)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    train(scene_classifier_file(), pictures=arguments.pictures, steps=arguments.steps)


if __name__ == "__main__":
    main()
