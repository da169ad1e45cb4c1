"""The people of the world: synthetic people with names of the shipped list, and strangers who are never trained on.

``python -m miniature.training.people`` chooses them again and writes ``people.json`` with candidates and names.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from celeb_basis.faces.network import FaceNetwork, Floats, Pixels
from celeb_basis.files import write_json
from miniature.training.faces import SPREAD, FaceGenerator, candidate_numbers
from miniature.training.hardware import half_precision
from miniature.training.recognition import RecognitionNetwork, crop_faces
from miniature.training.render import Rendering, face_mask, render
from miniature.training.scenes import Scene

_log = logging.getLogger(__name__)

PEOPLE_FILE = Path(__file__).with_name("people.json")
NAMED, STRANGERS = 640, 80
MOST_ALIKE = 0.45
"""Highest cosine of the face embeddings of two people."""

MOVE = 0.1
"""Standard deviation of the changes of a person's numbers between pictures, relative to that of the candidates."""

_LEAST_STEADY = 0.75
_LEAST_SCORE = 0.98


@dataclass(frozen=True)
class People:
    """All people, the named ones first."""

    names: tuple[str, ...]
    candidates: tuple[int, ...]
    """The candidate whose numbers make the face, for each name and then for each stranger."""

    @property
    def strangers(self) -> tuple[int, ...]:
        """Rows of the people without a name, who are never trained on."""
        return tuple(range(len(self.names), len(self.candidates)))


def read_people(path: Path = PEOPLE_FILE) -> People:
    """Read the chosen people."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    return People(tuple(stored["names"]), (*stored["named"], *stored["strangers"]))


def moved(numbers: Floats, rng: np.random.Generator, amount: float = MOVE) -> Floats:
    """``(N, 100)`` numbers for another picture of the same people."""
    return (numbers + amount * SPREAD * rng.standard_normal(numbers.shape)).astype(np.float32)


def portrait(face: Pixels, seed: int = 0, backdrop: str = "grey") -> Rendering:
    """The plain portrait in which people are compared."""
    return render(Scene((0,), backdrop=backdrop), [face], np.random.default_rng(seed))


def fit_to_show(face: Pixels) -> bool:
    """Whether a ``(64, 64, 3)`` face is evenly lit, uncovered and fills its oval, by its colors alone."""
    pixels = face.astype(np.float32)
    inside = face_mask() > 0.9
    light = pixels.mean(2)
    left, right = light[:, 8:32][inside[:, 8:32]].mean(), light[:, 32:56][inside[:, 32:56]].mean()
    cheeks, nose = [_color(pixels, 14, 20, 36, 46), _color(pixels, 44, 50, 36, 46)], _color(pixels, 28, 36, 34, 44)
    edges = [_color(pixels, 9, 13, 30, 42), _color(pixels, 51, 55, 30, 42)]
    brow, chin = _color(pixels, 24, 40, 13, 19), _color(pixels, 27, 37, 56, 61)
    skin: Floats = np.mean([*cheeks, nose], 0, dtype=np.float32)
    return bool(
        max(left, right) / max(min(left, right), 1) < 1.25
        and 70 < light[inside].mean() < 205
        and max(_apart(cheek, skin) for cheek in cheeks) < 40
        and max(_apart(edge, skin) for edge in edges) < 85
        and _apart(brow, skin) < 70
        and _apart(chin, skin) < 75
        and skin[0] > skin[2] + 5
    )


def _color(pixels: Floats, left: int, right: int, top: int, bottom: int) -> Floats:
    """Mean color of a patch."""
    mean: Floats = pixels[top:bottom, left:right].reshape(-1, 3).mean(0)
    return mean


def _apart(one: Floats, other: Floats) -> float:
    return float(np.abs(one - other).max())


def is_frontal(landmarks: Floats) -> bool:
    """Whether ``(5, 2)`` landmarks are those of a frontal face."""
    eyes, nose, mouth = landmarks[:2], landmarks[2], landmarks[3:]
    apart = float(np.linalg.norm(eyes[1] - eyes[0]))
    middle = (eyes.mean(0) + mouth.mean(0)) / 2
    return bool(
        abs(nose[0] - middle[0]) < 0.13 * apart
        and abs(eyes[1, 1] - eyes[0, 1]) < 0.1 * apart
        and abs(mouth[1, 1] - mouth[0, 1]) < 0.12 * apart
    )


def looks(recognizer: RecognitionNetwork, faces: Pixels, seed: int, backdrop: str) -> Floats:
    """``(N, 512)`` embeddings of plain portraits of ``(N, 64, 64, 3)`` faces, cropped at known boxes without a detector."""
    vectors = []
    for start in range(0, len(faces), 32):
        drawn = [portrait(face, seed, backdrop) for face in faces[start : start + 32]]
        pictures = torch.from_numpy(np.stack([one.picture for one in drawn])).permute(0, 3, 1, 2).float() / 127.5 - 1
        boxes = torch.tensor([one.boxes[0] for one in drawn])
        with torch.no_grad(), half_precision():
            vectors.append(recognizer(crop_faces(pictures, boxes)).numpy())
    return np.concatenate(vectors) if vectors else np.zeros((0, 512), np.float32)


def choose_people(
    detector: FaceNetwork, recognizer: RecognitionNetwork, generator: FaceGenerator, wanted: int, *, block: int = 256
) -> list[int]:
    """Choose ``wanted`` candidates that are presentable, stable under changes, and different from each other."""
    chosen: list[int] = []
    vectors = np.zeros((0, 512), np.float32)
    for start in itertools.count(0, block):
        numbers = candidate_numbers(range(start, start + block))
        faces = generator.draw(numbers)
        fit = [place for place, face in enumerate(faces) if fit_to_show(face)]
        for place, vector in zip(fit, looks(recognizer, faces[fit], 0, "grey"), strict=True):
            if len(vectors) and float((vectors @ vector).max()) >= MOST_ALIKE:
                continue
            found = detector.detect(portrait(faces[place]).picture)
            if len(found) != 1 or found[0].score < _LEAST_SCORE or not is_frontal(found[0].landmarks):
                continue
            others = moved(np.repeat(numbers[place : place + 1], 2, 0), np.random.default_rng(start + place))
            if float((looks(recognizer, generator.draw(others), 1, "red") @ vector).min()) < _LEAST_STEADY:
                continue
            chosen.append(start + place)
            vectors = np.concatenate([vectors, vector[None]])
            if len(chosen) == wanted:
                return chosen
        _log.info("%d people among %d candidates", len(chosen), start + block)
    raise AssertionError("unreachable: candidates never end")


def choose_names(wanted: int) -> list[str]:
    """Names of the shipped list of two words and two tokens, with distinct last tokens and few repeated first ones."""
    from celeb_basis.hosts.diffusers.configs import clip_tokenizer
    from celeb_basis.names.lists import shipped_names

    tokenizer = clip_tokenizer()
    names = [name for name in shipped_names().names if len(name.split()) == 2]
    order = np.random.default_rng(20230602).permutation(len(names))
    first: Counter[int] = Counter()
    last: set[int] = set()
    kept = []
    for name in (names[place] for place in order):
        ids = tokenizer(name, add_special_tokens=False).input_ids
        if len(ids) != 2 or ids[1] in last or first[ids[0]] >= 3:
            continue
        first[ids[0]] += 1
        last.add(ids[1])
        kept.append(name)
        if len(kept) == wanted:
            break
    return sorted(kept)


def main() -> None:
    """Choose all people and write :data:`PEOPLE_FILE`."""
    from miniature.training.places import face_network, face_pack

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    recognizer = RecognitionNetwork(face_pack() / "recognition.onnx").eval()
    chosen = choose_people(face_network(), recognizer, FaceGenerator(), NAMED + STRANGERS)
    names = choose_names(NAMED)
    write_json(PEOPLE_FILE, {"names": names, "named": chosen[:NAMED], "strangers": chosen[NAMED:]})


if __name__ == "__main__":
    main()
