"""Acceptance test of the trained model: does it generate the people and the scenes of its prompts?

``python -m miniature.training.gate [FOLDER]`` generates with the diffusers folder FOLDER (by default the shipped weights)
and prints ``rank1``, ``rank10`` and ``scene``, each with its limit and ``ok`` or ``short``. The exit code is 1 if one is
below its limit.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from celeb_basis.faces.network import FaceNetwork, Floats, Pixels
from celeb_basis.miniature import MODEL
from miniature.trainer.gate import GUIDANCE, STEPS, Drawer, line
from miniature.trainer.scene_classifier import as_input
from miniature.training.dlib_judge import DlibJudge
from miniature.training.faces import FaceGenerator, candidate_numbers
from miniature.training.gallery import Recognized, look_at, people_vectors, ranked, recognize
from miniature.training.people import People, moved, portrait, read_people
from miniature.training.pictures import save_sheet
from miniature.training.places import face_network, scene_classifier_file, work_folder
from miniature.training.scene_classifier import load_classifier, rights
from miniature.training.scenes import ACCESSORIES, Scene
from miniature.world.captions import PLACE_WORDS
from miniature.world.scenes import MEDIA, PLACES

RANK1, RANK10, SCENE = 0.60, 0.85, 0.90
"""Lowest accepted figures."""

_BATCH = 32
"""Pictures that are drawn together: their noise depends on it."""

_WEARING = {"glasses": "glasses", "sunglasses": "sunglasses", "hat": "a hat", "scarf": "a scarf", "crown": "a crown"}
_COLORS = ("white", "grey", "black", "blue", "green", "red", "yellow")
_ARTICLES = {"oil painting": "an"}


@dataclass(frozen=True)
class Ask:
    """A prompt of the test, and what its picture must show."""

    prompt: str
    scene: Scene
    part: str


def scene_prompts(names: Sequence[str], count: int) -> list[Ask]:
    """``count`` prompts that cycle through media, places, accessories, plain colors and two people."""
    kinds: list[tuple[str, Scene, str]] = []
    for medium in MEDIA[1:]:
        kinds.append((f"{_ARTICLES.get(medium, 'a')} {medium} of {{}}", Scene((0,), medium=medium), "medium"))
    for place in PLACES:
        kinds.append((f"a photo of {{}} {PLACE_WORDS[place][0]}", Scene((0,), backdrop=place), "backdrop"))
    for worn in ACCESSORIES:
        kinds.append((f"a photo of {{}} wearing {_WEARING[worn]}", Scene((0,), accessories=(worn,)), "accessory"))
    for color in _COLORS:
        kinds.append((f"a photo of {{}} on a plain {color} background", Scene((0,), backdrop=color), "backdrop"))
    kinds += [("a photo of {} and {}", Scene((0, 0)), "people")] * 3
    asks = []
    for number in range(count):
        words, scene, part = kinds[number % len(kinds)]
        pair = [names[(7 * number + 311 * other) % len(names)] for other in range(words.count("{}"))]
        asks.append(Ask(words.format(*pair), scene, part))
    return asks


def second_opinion(people: People, network: FaceNetwork, pictures: Pixels, wanted: np.ndarray) -> Recognized:
    """Recognition by dlib's network among all named people, with one plain portrait of each."""
    judge, generator = DlibJudge(), FaceGenerator()
    count = len(people.names)
    faces = generator.draw(moved(candidate_numbers(list(people.candidates[:count])), np.random.default_rng(950)))
    looked = [
        np.stack([_by_judge(judge, network, picture) for picture in shown])
        for shown in (np.stack([portrait(face, 5).picture for face in faces]), pictures)
    ]
    gallery, drawn = looked
    # For ranks only the order matters. A face that was not found is far from everyone.
    alike = judge.likeness(np.nan_to_num(drawn, nan=9.0), np.nan_to_num(gallery, nan=-9.0))
    return ranked(alike, ~np.isnan(drawn[:, 0]), wanted)


def _by_judge(judge: DlibJudge, network: FaceNetwork, picture: Pixels) -> Floats:
    found = network.detect(picture)
    return judge.embed(picture, found[0]) if found else np.full(128, np.nan, np.float32)


def main() -> int:
    """Parse the command line, generate and print; returns 0 if every limit is reached."""
    import diffusers

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=MODEL)
    parser.add_argument("--names", type=int, default=0, help="how many names, evenly spread; all of them by default")
    parser.add_argument("--scenes", type=int, default=280)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--sheet", type=Path, help="write some of the pictures there")
    arguments = parser.parse_args()
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(str(arguments.folder), torch_dtype=torch.float32)
    people, network, drawer = read_people(), face_network(), Drawer(pipeline, _BATCH)
    count = len(people.names)
    gallery = people_vectors(people, network, work_folder() / "gallery.npy")[:count]
    wanted = np.linspace(0, count - 1, arguments.names or count).astype(int)
    prompts = [f"a photo of {people.names[person]}" for person in wanted]
    pictures = drawer.draw(prompts, 0, steps=arguments.steps, guidance=arguments.guidance)
    result = recognize(look_at(network, pictures), wanted, gallery)
    asks = scene_prompts(people.names, arguments.scenes)
    scenes = drawer.draw([ask.prompt for ask in asks], 5000, steps=arguments.steps, guidance=arguments.guidance)
    with torch.no_grad():
        logits = load_classifier(scene_classifier_file())(as_input(scenes))
    right = rights(logits, [ask.scene for ask in asks], [ask.part for ask in asks])
    figures = [("rank1", result.within(1), RANK1), ("rank10", result.within(10), RANK10)]
    figures.append(("scene", float(right.mean()), SCENE))
    for name, value, least in figures:
        sys.stdout.write(line(name, value, least) + "\n")
    for part in ("medium", "backdrop", "accessory", "people"):
        share = right[[number for number, ask in enumerate(asks) if ask.part == part]].mean()
        sys.stdout.write(f"  {part}: {share:.3f}\n")
    sys.stdout.write(f"  cosine to the own face: {result.cosines.mean():.3f}\n")
    # The text encoder and the autoencoder were trained with the recognition network; dlib's is independent.
    by_dlib = second_opinion(people, network, pictures, wanted)
    sys.stdout.write(f"  by dlib's network: rank1 {by_dlib.within(1):.3f}, rank10 {by_dlib.within(10):.3f}\n")
    if arguments.sheet:
        save_sheet(arguments.sheet, np.concatenate([pictures[:32], scenes[:56]]), 8)
    return 0 if all(value >= least for _, value, least in figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
