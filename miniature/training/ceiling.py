"""How much of an identity the autoencoder preserves: the upper limit for every denoiser.

``python -m miniature.training.ceiling STATE`` encodes and decodes a new picture of every named person, and prints how many
are recognized among all, before and after.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from miniature.training.autoencoder import load_autoencoder
from miniature.training.faces import FaceGenerator, candidate_numbers
from miniature.training.gallery import look_at, people_vectors, recognize
from miniature.training.people import moved, portrait, read_people
from miniature.training.pictures import decode, save_sheet
from miniature.training.places import face_network, work_folder
from miniature.training.pool import encode


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("state", type=Path)
    parser.add_argument("--people", type=int, default=0, help="how many, evenly spread; everyone by default")
    parser.add_argument("--sheet", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    people, network = read_people(), face_network()
    count = len(people.names)
    gallery = people_vectors(people, network, work_folder() / "gallery.npy")[:count]
    wanted = np.linspace(0, count - 1, arguments.people or count).astype(int)
    numbers = moved(candidate_numbers(list(people.candidates))[wanted], np.random.default_rng(77))
    before = np.stack([portrait(face, 77, "beige").picture for face in FaceGenerator().draw(numbers)])
    model = load_autoencoder(arguments.state)
    after = decode(model, encode(model, before))
    vectors = [look_at(network, pictures) for pictures in (before, after)]
    for name, found in zip(("before", "after"), vectors, strict=True):
        result = recognize(found, wanted, gallery)
        sys.stdout.write(
            f"{name}: rank1 {result.within(1):.3f} rank10 {result.within(10):.3f} cosine {result.cosines.mean():.3f}\n"
        )
    sys.stdout.write(f"one with the other: cosine {float(np.nansum(vectors[0] * vectors[1], 1).mean()):.3f}\n")
    if arguments.sheet:
        pairs = [np.concatenate([one, other]) for one, other in zip(before[:16], after[:16], strict=False)]
        save_sheet(arguments.sheet, np.stack(pairs), 8)


if __name__ == "__main__":
    main()
