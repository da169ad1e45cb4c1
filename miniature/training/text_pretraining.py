"""Pretraining of the text encoder, before the denoiser: it predicts what the picture of a caption looks like.

Stable Diffusion's text encoder was pretrained on images too (CLIP). Here the hidden state after a name has to predict the
face (components of its embedding by the recognition network, and of its colors), and whether it is the second of two people.
The end of the text and the padding have to predict the scene, and the face of a single person.
``python -m miniature.training.text_pretraining --steps 1200``.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from celeb_basis.faces.network import Floats
from miniature.trainer.text_model import WIDTH, Tokens, WorldText
from miniature.training.captions import caption, used_tokens
from miniature.training.checkpoints import load_state, save_state
from miniature.training.faces import FaceGenerator, candidate_numbers
from miniature.training.people import People, looks, moved, read_people
from miniature.training.places import face_pack, work_folder
from miniature.training.recognition import RecognitionNetwork
from miniature.training.render import face_mask
from miniature.training.scenes import ACCESSORIES, Scene, draw_scene
from miniature.world.scenes import BACKDROPS, MEDIA, SIZES

_log = logging.getLogger(__name__)

VECTOR_PARTS, COLOR_PARTS = 64, 48
LENGTH = 32
"""Tokens of a caption here: the encoder is causal, so what follows the end does not matter."""
BATCH = 192
_SEED = 13
_PLACES = ("", "on the left", "on the right")


def face_targets(people: People) -> Floats:
    """``(N, 112)`` whitened components of the face embeddings and of the colors of the named people."""
    generator, recognizer = FaceGenerator(), RecognitionNetwork(face_pack() / "recognition.onnx").eval()
    numbers = candidate_numbers(list(people.candidates[: len(people.names)]))
    faces = generator.draw(numbers)
    views = [faces, *(generator.draw(moved(numbers, np.random.default_rng(seed))) for seed in (1, 2))]
    vectors = np.mean([looks(recognizer, view, 0, "grey") for view in views], 0)
    shown = np.mean([view.astype(np.float32) for view in views], 0) * face_mask()[..., None]
    thumbs = shown.reshape(len(faces), 16, 4, 16, 4, 3).mean((2, 4)).reshape(len(faces), -1)
    return np.concatenate([_whitened(vectors, VECTOR_PARTS), _whitened(thumbs, COLOR_PARTS)], 1)


def _whitened(values: Floats, parts: int) -> Floats:
    centered = values - values.mean(0)
    left = np.linalg.svd(centered, full_matrices=False)[0][:, :parts]
    white: Floats = (left * len(values) ** 0.5).astype(np.float32)
    return white


class Heads(nn.Module):
    """Heads that predict from the hidden states; they are discarded afterwards."""

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.face = nn.Linear(WIDTH, parts)
        self.scene = nn.Linear(WIDTH, len(MEDIA) + len(BACKDROPS) + len(SIZES) + len(_PLACES) + len(ACCESSORIES) + 1)
        self.second = nn.Linear(WIDTH, 1)


def scene_loss(logits: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """Cross-entropy of medium, backdrop, size and place, and of each accessory and a second person."""
    parts = logits.split([len(MEDIA), len(BACKDROPS), len(SIZES), len(_PLACES), len(ACCESSORIES) + 1], 1)  # type: ignore[no-untyped-call]
    wanted = [
        [MEDIA.index(scene.medium) for scene in scenes],
        [BACKDROPS.index(scene.backdrop) for scene in scenes],
        [SIZES.index(scene.size) for scene in scenes],
        [_PLACES.index(scene.place) for scene in scenes],
    ]
    losses = [F.cross_entropy(part, torch.tensor(label)) for part, label in zip(parts, wanted, strict=False)]
    worn = [
        [float(name in scene.accessories) for name in ACCESSORIES] + [float(len(scene.people) == 2)] for scene in scenes
    ]
    return torch.stack([*losses, F.binary_cross_entropy_with_logits(parts[4], torch.tensor(worn))]).sum()


def name_ends(row: Tensor, ids: Sequence[int]) -> int:
    """The position of the last token of a name in a row of ids."""
    values, wanted = row.tolist(), list(ids)
    for place in range(len(values) - len(wanted) + 1):
        if values[place : place + len(wanted)] == wanted:
            return place + len(wanted) - 1
    return -1


def train(folder: Path, steps: int) -> None:
    """Train up to step ``steps``, with ``text-state.safetensors`` and finally ``text.safetensors`` in ``folder``."""
    people, tokens = read_people(), Tokens()
    targets = torch.from_numpy(face_targets(people))
    model, heads = WorldText(used_tokens(tokens, people.names)), Heads(targets.shape[1])
    slow = [value for name, value in model.named_parameters() if "token_embedding" not in name]
    optimizer = torch.optim.AdamW(
        [{"params": [*slow, *heads.parameters()], "top": 1.5e-3}, {"params": [model.table.weight], "top": 2e-3}],
        lr=1e-3,
        betas=(0.9, 0.99),
        weight_decay=0.0,
    )
    path, step = folder / "text-state.safetensors", 0
    if path.exists():
        step = load_state(path, {"model": model, "heads": heads}, [optimizer])["step"]
    begun = saved = time.monotonic()
    while step < steps:
        rng = np.random.default_rng([_SEED, step])
        scenes = [draw_scene(rng, len(people.names)) for _ in range(BATCH)]
        names = [[people.names[person] for person in scene.people] for scene in scenes]
        texts = [caption(scene, said, rng) for scene, said in zip(scenes, names, strict=True)]
        ids = tokens(texts, LENGTH)
        hidden = model(ids)
        asked = [
            (row, name_ends(ids[row], tokens.words(name)), person)
            for row, scene in enumerate(scenes)
            for name, person in zip(names[row], scene.people, strict=True)
        ]
        second = torch.tensor([[float(order)] for scene in scenes for order in range(len(scene.people))])
        # At the end of the text, and at one of the ends that pad it: the denoiser sees them all.
        ends = (ids == tokens.tokenizer.eos_token_id).int().argmax(1)
        pads = torch.from_numpy(rng.integers(ends.numpy(), LENGTH))
        single = [
            (row, int(place[row]), scene.people[0])
            for place in (ends, pads)
            for row, scene in enumerate(scenes)
            if len(scene.people) == 1
        ]
        rows, places, persons = (torch.tensor(column) for column in zip(*asked, *single, strict=True))
        states = hidden[rows, places]
        predicted = heads.face(states)
        face = F.mse_loss(predicted, targets[persons])
        every = torch.arange(len(texts))
        scene = torch.stack([scene_loss(heads.scene(hidden[every, place]), scenes) for place in (ends, pads)]).mean()
        order = F.binary_cross_entropy_with_logits(heads.second(states[: len(asked)]), second)
        share = step / steps
        for group in optimizer.param_groups:
            group["lr"] = group["top"] * min(1, (step + 1) / 50) * (0.02 + 0.98 * (0.5 + 0.5 * np.cos(np.pi * share)))
        optimizer.zero_grad(set_to_none=True)
        (face + 0.2 * scene + 0.2 * order).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([*model.parameters(), *heads.parameters()], 1.0)
        optimizer.step()
        step += 1
        if step % 50 == 0:
            right = (torch.cdist(predicted.detach(), targets).argmin(1) == persons).float().mean()
            spread = model.table.weight.detach().norm(dim=1).mean()
            facts = {"step": step, "seconds": round(time.monotonic() - begun), "face": round(float(face.detach()), 4)}
            facts |= {"scene": round(float(scene.detach()), 4), "right": round(float(right), 3)}
            _log.info("%s", json.dumps({**facts, "length": round(float(spread), 3)}))
        if time.monotonic() - saved > 120 or step == steps:
            saved = time.monotonic()
            save_state(path, {"model": model, "heads": heads}, [optimizer], {"step": step})
    model.pad_alike(LENGTH)
    save_state(folder / "text.safetensors", {"model": model}, (), {"step": step})


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    train(work_folder(), arguments.steps)


if __name__ == "__main__":
    main()
