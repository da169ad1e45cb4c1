"""Quick evaluation of the denoiser during training: sixty names generated in few steps, and how many are recognized."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from miniature.training.gallery import look_at, people_vectors, recognize
from miniature.training.people import read_people
from miniature.training.pictures import decode, save_sheet
from miniature.training.places import face_network

if TYPE_CHECKING:
    from miniature.training.denoiser import Trainer

NAMES = 60


class QuickLook:
    """Generates pictures, decodes them with the current autoencoder, and recognizes the people."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._network = face_network()

    def figures(self, trainer: Trainer) -> dict[str, float]:
        """Return ``rank1``, ``rank10``, ``cosine`` and ``faces`` (share of pictures with a face)."""
        from miniature.training.autoencoder import load_autoencoder

        people = read_people()
        count = len(people.names)
        wanted = np.linspace(0, count - 1, NAMES).astype(int)
        prompts = [f"a photo of {people.names[person]}" for person in wanted]
        decoder = self._folder / "decoder.safetensors"
        model = load_autoencoder(decoder if decoder.exists() else self._folder / "encoder.safetensors")
        pictures = decode(model, trainer.draw(prompts, 1))
        gallery = people_vectors(people, self._network, self._folder / "gallery.npy")[:count]
        vectors = look_at(self._network, pictures)
        result = recognize(vectors, wanted, gallery)
        save_sheet(self._folder / "look.png", pictures[:32], 8)
        return {
            "rank1": round(result.within(1), 3),
            "rank10": round(result.within(10), 3),
            "cosine": round(float(result.cosines.mean()), 3),
            "faces": round(float((~np.isnan(vectors[:, 0])).mean()), 3),
        }
