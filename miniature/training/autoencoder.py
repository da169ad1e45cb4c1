"""The autoencoder: Stable Diffusion's architecture with fewer channels, trained on crops of rendered scenes.

``python -m miniature.training.autoencoder`` trains it, or continues a stopped run. Afterwards ``--decoder`` freezes the
encoder (``encoder.safetensors``, with which the pool is encoded) and trains the decoder alone (``decoder.safetensors``).
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from miniature.trainer import autoencoder
from miniature.training.backdrops import SIDE
from miniature.training.checkpoints import load_state, save_state
from miniature.training.faces import SPREAD, FaceGenerator
from miniature.training.hardware import drawing_processes, half_precision
from miniature.training.places import face_pack, work_folder
from miniature.training.recognition import RecognitionNetwork, crop_faces
from miniature.training.render import render
from miniature.training.scenes import draw_scene

_log = logging.getLogger(__name__)

SHAPES = ((64, 4), (64, 4), (128, 1), (64, 4), (64, 4), (128, 2))
"""Side and number of the crops of successive steps. Small crops are cheap, whole pictures hold whole faces."""
WHOLE = ((128, 48),)
"""The same on a GPU, which has time for whole pictures."""
RATE = 3e-4
KL = 1e-4
IDENTITY = 0.15
FEATURES = 0.06
NOISE = 0.1
"""Noise on the latents in training, because those of a denoiser have small errors. Their own deviation is 1 to 1.7."""
FACES_AFTER = 400
"""Steps until the face losses have their full weight."""
_SEED = 11


def new_autoencoder() -> Any:
    """The untrained network."""
    return autoencoder.new_autoencoder(SIDE)


def load_autoencoder(path: Path) -> Any:
    """The network with the weights of a training state, for use."""
    return autoencoder.load_autoencoder(path, SIDE)


def render_bank(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """``(N, 128, 128, 3)`` scenes of random people, and the box of the first face of each (width 0 for none)."""
    generator, rng = FaceGenerator(), np.random.default_rng(seed)
    pictures, boxes = np.zeros((count, 128, 128, 3), np.uint8), np.zeros((count, 3), np.float32)
    for start in range(0, count, 64):
        faces = generator.draw((SPREAD * rng.standard_normal((64, 100))).astype(np.float32))
        for place in range(start, min(start + 64, count)):
            scene = draw_scene(rng, len(faces))
            drawn = render(scene, [faces[person] for person in scene.people], rng)
            pictures[place] = drawn.picture
            if drawn.boxes:
                boxes[place] = drawn.boxes[0]
    return pictures, boxes


def render_banks(count: int, seed: int, processes: int) -> tuple[np.ndarray, np.ndarray]:
    """Like :func:`render_bank`, in parts by several processes."""
    if processes == 1:
        return render_bank(count, seed)
    with drawing_processes(processes) as pool:
        seeds = [1000 * seed + part for part in range(processes)]
        parts = list(pool.map(render_bank, [-(-count // processes)] * processes, seeds))
    pictures, boxes = (np.concatenate(values) for values in zip(*parts, strict=True))
    return pictures, boxes


def crops_of(pictures: np.ndarray, boxes: np.ndarray, rng: np.random.Generator, side: int) -> tuple[Tensor, Tensor]:
    """Random crops ``(N, 3, side, side)`` in -1 to 1, and the boxes in them; half of them around small faces."""
    count = len(pictures)
    crops, moved = np.zeros((count, side, side, 3), np.uint8), boxes.copy()
    for number, (left, top, width) in enumerate(boxes):
        x, y = rng.integers(0, 128 - side + 1, 2)
        if 0 < width <= side and rng.random() < 0.9:
            x = int(np.clip(round(left + width / 2 - side / 2 + rng.uniform(-3, 3)), 0, 128 - side))
            y = int(np.clip(round(top + width / 2 - side / 2 + rng.uniform(-3, 3)), 0, 128 - side))
        crops[number] = pictures[number, y : y + side, x : x + side]
        moved[number, :2] -= x, y
    scaled = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1
    return scaled, torch.from_numpy(moved)


def whole_faces(boxes: Tensor, side: int) -> Tensor:
    """Which boxes ``(N, 3)`` lie in the crop, with a tolerance of a tenth, and are large enough for recognition."""
    slack = 0.1 * boxes[:, 2]
    inside = (boxes[:, :2].amin(1) >= -slack) & ((boxes[:, :2].amax(1) + boxes[:, 2]) <= side + slack)
    return inside & (boxes[:, 2] >= 36)


def losses(
    model: Any, recognizer: RecognitionNetwork, pictures: Tensor, boxes: Tensor, seed: int, *, decoder: bool = False
) -> dict[str, Tensor]:
    """The terms of the loss of one batch. With ``decoder`` the encoder gets no gradient."""
    device = pictures.device
    with (
        torch.set_grad_enabled(not decoder),
        torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu"),
    ):
        posterior = model.encode(pictures).latent_dist
    generator = torch.Generator(device).manual_seed(seed)
    spread = NOISE if decoder else (posterior.var + NOISE**2).sqrt()
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu"):
        noise = torch.randn(posterior.mean.shape, generator=generator, device=device)
        decoded = model.decode(posterior.mean + spread * noise).sample.float()
    parts = {"l1": (decoded - pictures).abs().mean()}
    if not decoder:
        parts["kl"] = 0.5 * (posterior.mean.square() + posterior.logvar.exp() - 1 - posterior.logvar).mean()
    shown = whole_faces(boxes, pictures.shape[-1])
    if bool(shown.any()):
        with half_precision(device.type):
            with torch.no_grad():
                wanted, maps = recognizer.look(crop_faces(pictures[shown], boxes[shown]))
            got, own = recognizer.look(crop_faces(decoded[shown], boxes[shown]))
        parts["identity"] = 1 - (wanted * got).sum(1).mean()
        parts["features"] = torch.stack(
            [(a.float() - b.float()).abs().mean() / a.float().abs().mean() for a, b in zip(maps, own, strict=True)]
        ).mean()
    return parts


def train(
    folder: Path,
    minutes: float,
    steps: int,
    bank_size: int,
    *,
    decoder: bool = False,
    device: str = "cpu",
    processes: int = 1,
) -> None:
    """Train up to step ``steps``, for ``minutes`` at most, and save the state in ``folder``."""
    model = new_autoencoder().to(device, memory_format=torch.channels_last)
    recognizer = RecognitionNetwork(face_pack() / "recognition.onnx").eval().to(device)
    trained = (
        [*model.decoder.parameters(), *model.post_quant_conv.parameters()] if decoder else list(model.parameters())
    )
    optimizer = torch.optim.AdamW(trained, lr=RATE, betas=(0.9, 0.99), weight_decay=1e-3)
    path, step = folder / ("decoder.safetensors" if decoder else "autoencoder-state.safetensors"), 0
    if path.exists():
        step = load_state(path, {"model": model}, [optimizer])["step"]
    elif decoder:
        load_state(folder / "encoder.safetensors", {"model": model})
    pictures, boxes = render_banks(bank_size, 100 + step, processes)
    shapes = SHAPES if device == "cpu" else WHOLE
    weights = {"l1": 1.0, "kl": KL, "identity": IDENTITY, "features": FEATURES}
    begun = saved = time.monotonic()
    _log.info("training from step %d", step)
    while step < steps and time.monotonic() - begun < 60 * minutes:
        rng = np.random.default_rng([_SEED, step])
        crop, batch = shapes[step % len(shapes)]
        rows = rng.integers(0, len(pictures), batch)
        x, placed = crops_of(pictures[rows], boxes[rows], rng, crop)
        share = max(step / steps, (time.monotonic() - begun) / (60 * minutes))
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 100) * (0.5 + 0.5 * np.cos(np.pi * share)) + 5e-6
        x = x.to(device).contiguous(memory_format=torch.channels_last)
        parts = losses(model, recognizer, x, placed.to(device), step, decoder=decoder)
        # Faces come in once there is something like a picture.
        faces = 1.0 if decoder else min(1.0, step / FACES_AFTER)
        ramp = {"identity": faces, "features": faces}
        loss = torch.stack([weights[name] * ramp.get(name, 1.0) * value for name, value in parts.items()]).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        step += 1
        if step % 50 == 0:
            seconds = time.monotonic() - begun
            shown = {name: round(float(value.detach()), 4) for name, value in parts.items()}
            _log.info("%s", json.dumps({"step": step, "seconds": round(seconds), **shown}))
        if time.monotonic() - saved > 120:
            saved = time.monotonic()
            save_state(path, {"model": model}, [optimizer], {"step": step})
    save_state(path, {"model": model}, [optimizer], {"step": step})
    _log.info("stopped at step %d", step)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--steps", type=int, default=6000, help="where the learning rate reaches its end")
    parser.add_argument("--bank", type=int, default=6000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--decoder", action="store_true", help="the decoder alone, behind the frozen encoder")
    parser.add_argument("--processes", type=int, default=1, help="for drawing the pictures")
    parser.add_argument("--device", default="cpu", help="cuda to train on a GPU")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    folder = work_folder()
    if arguments.decoder and not (folder / "encoder.safetensors").exists():
        model = new_autoencoder()
        step = load_state(folder / "autoencoder-state.safetensors", {"model": model})["step"]
        save_state(folder / "encoder.safetensors", {"model": model}, (), {"step": step})
    train(
        folder,
        arguments.minutes,
        arguments.steps,
        arguments.bank,
        decoder=arguments.decoder,
        device=arguments.device,
        processes=arguments.processes,
    )


if __name__ == "__main__":
    main()
