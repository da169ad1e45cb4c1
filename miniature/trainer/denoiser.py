"""The denoiser: Stable Diffusion 1's UNet with fewer channels, trained on the world's latents, the text encoder frozen.

``python -m miniature.trainer.denoiser --people FILE --names 64 --bank BANK`` trains it, or goes on where it was stopped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from miniature.people3d.casting import Judge
from miniature.trainer.autoencoder import trained_autoencoder
from miniature.trainer.judging import Gallery, fill, references_of
from miniature.trainer.text_model import load_text
from miniature.training import unet
from miniature.training.denoiser import Trainer, options, plan_of, train
from miniature.training.pictures import decode, save_sheet
from miniature.training.places import face_network, work_folder
from miniature.world.bank import Bank
from miniature.world.people import PEOPLE_FILE, read_people
from miniature.world.scenes import SIDE

CONFIG: dict[str, Any] = {**unet.CONFIG, "sample_size": SIDE // 8, "attention_head_dim": 4}
SIZES: dict[str, tuple[int, int, int]] = {"small": (64, 128, 128), "large": (128, 256, 320)}
"""Channels: what two cores can train, and what a GPU can and 60 MB hold."""
FACES = 4.0
"""By how much more the error counts where a face is seen: it is small, and people differ in it."""
LOOKED_AT = 64
"""People of whom a picture is drawn now and then, and among whom they are looked for."""


def unet_config(size: str) -> dict[str, Any]:
    """Configuration of a UNet of one of :data:`SIZES`."""
    return {**CONFIG, "block_out_channels": list(SIZES[size])}


class QuickLook:
    """Generates pictures while the training goes on, saves a sheet of them, and asks a judge who of those people it is."""

    def __init__(
        self, folder: Path, bank: Bank, names: tuple[str, ...], numbers: tuple[int, ...], judge: Judge
    ) -> None:
        people = np.unique(np.linspace(0, len(names) - 1, LOOKED_AT).astype(np.int64))
        self._folder, self._prompts = folder, [f"a photo of {names[person]}" for person in people]
        self._gallery = Gallery(judge, face_network())
        shown = [numbers[person] for person in people]
        store = folder / f"gallery-{judge.name}.safetensors"
        fill([self._gallery], shown, lambda: references_of(bank, shown), face_network(), store)

    def figures(self, trainer: Trainer) -> dict[str, float]:
        """``rank1``, ``rank10``, ``likeness``, and ``faces``, the share of pictures with a face."""
        pictures = decode(trained_autoencoder(self._folder), trainer.draw(self._prompts, 1))
        save_sheet(self._folder / "look.png", pictures, 8)
        faces = self._gallery.look(list(pictures))
        verdict = self._gallery.verdict(faces, np.arange(len(pictures)))
        return {
            "rank1": round(verdict.within(1), 3),
            "rank10": round(verdict.within(10), 3),
            "likeness": round(float(np.nanmean(verdict.likeness)), 3),
            "faces": round(float((~np.isnan(faces[:, 0])).mean()), 3),
        }


def main() -> None:
    """Parse the command line and train."""
    from miniature.training.dlib_judge import RecognitionJudge

    parser = options(__doc__)
    parser.set_defaults(faces=FACES)
    parser.add_argument("--people", type=Path, default=PEOPLE_FILE)
    parser.add_argument("--names", type=int, help="so many of the named people; all by default")
    parser.add_argument("--bank", type=Path, required=True, help="folder of miniature.world.bank, to judge with")
    parser.add_argument("--size", choices=SIZES, default="small")
    arguments = parser.parse_args()
    plan, folder, people = plan_of(arguments), work_folder(), read_people(arguments.people)
    names, numbers = people.names[: arguments.names], people.named[: arguments.names]
    text = load_text(folder / "text.safetensors")
    trainer = Trainer(folder, plan, names, text, unet_config(arguments.size))
    look = QuickLook(folder, Bank(arguments.bank), names, numbers, RecognitionJudge(face_network()))
    train(trainer, look.figures)


if __name__ == "__main__":
    main()
