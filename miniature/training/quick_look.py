"""Quick evaluation of the denoiser during training: some people drawn in few steps, and how many a judge recognizes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from miniature.people3d.casting import Judge
from miniature.training.autoencoder import trained_autoencoder
from miniature.training.judging import Gallery, fill, references_of
from miniature.training.pictures import decode, save_sheet
from miniature.training.places import face_network
from miniature.world.bank import Bank

if TYPE_CHECKING:
    from miniature.training.denoiser import Trainer

LOOKED_AT = 64
"""People of whom a picture is drawn now and then, and among whom they are looked for."""


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
