"""The miniature Stable Diffusion as a world: its strangers, its scenes, and judges that its training never used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.evidence.world import Ask, EvidenceWorld, Stranger
from celeb_basis.errors import FaceError, HostError
from celeb_basis.faces.portraits import portrait as crop_portrait
from celeb_basis.faces.types import FaceNetwork, Pixels
from celeb_basis.miniature import MODEL
from miniature.training.dlib_judge import DlibJudge, RecognitionJudge

ASKS = (
    Ask("a photo of {}", "photo"),
    Ask("a pencil sketch of {}", "pencil sketch"),
    Ask("an oil painting of {}", "oil painting"),
    Ask("a sepia photo of {}", "sepia photo"),
    Ask("a photo of {} on a beach", "beach"),
    Ask("a photo of {} in a forest", "forest"),
    Ask("a photo of {} in a city at night", "city at night"),
    Ask("a photo of {} wearing glasses", "glasses"),
    Ask("a photo of {} wearing a hat", "hat"),
    Ask("a photo of {} on a plain blue background", "blue"),
)
TOGETHER = (Ask("a photo of {} and {}", "2 people"), Ask("a photo of {} and {} on a beach", "2 people"))

_DRAWING_STEPS = 12
_REFERENCES = 3
_SOURCE = "a stranger's picture"


def miniature_world(folder: Path | None, *, strangers: int) -> EvidenceWorld:
    """The world of the diffusers folder that ``python -m miniature.training.export`` wrote (by default the one that ships).

    Raises: :class:`HostError` if there is no model or no scene classifier, :class:`MissingPackageError` for the judges'.
    """
    from celeb_basis.hosts.diffusers.checkpoint import load_host
    from miniature.training.places import face_network, scene_classifier_file

    folder = folder or MODEL
    classifier = scene_classifier_file()
    for path, command in ((folder, "miniature.training.export"), (classifier, "miniature.training.scene_classifier")):
        if not path.exists():
            raise HostError(
                f"There is no {path}: make it with `python -m {command}`, or see miniature/training/README.md."
            )
    from celeb_basis.names.lists import name_list
    from miniature.training.people import read_people

    host = load_host(folder, device="cpu", dtype="fp32")
    faces, people = face_network(), read_people()
    vae, unet = host._pipeline.vae, host._pipeline.unet
    side = int(unet.config.sample_size)
    chosen = _strangers(people, faces, strangers, host.info.resolution)
    world_of = [host.info.sha256, [ask.prompt for ask in (*ASKS, *TOGETHER)], [_digest(one) for one in chosen], "dlib"]
    return EvidenceWorld(
        key=f"miniature {hashlib.sha256(json.dumps(world_of).encode()).hexdigest()[:12]}",
        host=host,
        faces=faces,
        names=name_list(people.names, "the miniature's names"),
        strangers=chosen,
        asks=ASKS,
        together=TOGETHER,
        decode=lambda latents: _pixels(_decoder(vae)(latents)),
        latent=(int(unet.config.in_channels), side, side),
        detect=faces.detect,
        judge=DlibJudge(),
        second=RecognitionJudge(faces),
        scenes=_scene_judge(classifier),
        denoiser=unet,
        steps=_DRAWING_STEPS,
    )


def _strangers(people: Any, faces: FaceNetwork, count: int, side: int) -> tuple[Stranger, ...]:
    """The first ``count`` people without a name: one picture to learn from, and others in other surroundings."""
    from miniature.training.faces import FaceGenerator, candidate_numbers
    from miniature.training.people import moved, portrait

    generator = FaceGenerator()
    found: list[Stranger] = []
    for row in people.strangers:
        if len(found) == count:
            break
        numbers = candidate_numbers([people.candidates[row]])
        photo = portrait(generator.draw(numbers)[0], seed=row).picture
        references = []
        for number in range(_REFERENCES):
            other = generator.draw(moved(numbers, np.random.default_rng([row, number])))[0]
            references.append(
                portrait(other, seed=10 * row + number, backdrop=("red", "blue", "beige")[number]).picture
            )
        name = f"stranger{row - len(people.names):02d}"
        try:
            learned_from = crop_portrait(photo, faces, size=side, source=_SOURCE)
        except FaceError:
            continue
        if all(faces.detect(reference) for reference in references):
            found.append(Stranger(name, learned_from, tuple(references)))
    return tuple(found)


def _digest(stranger: Stranger) -> str:
    pictures = (stranger.portrait.picture, *stranger.references)
    return hashlib.sha256(b"".join(picture.tobytes() for picture in pictures)).hexdigest()


def _decoder(vae: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Scaled latents to pictures in about -1 to 1, with gradients to the latents."""
    factor, shift = float(vae.config.scaling_factor), float(getattr(vae.config, "shift_factor", None) or 0.0)

    def decode(latents: torch.Tensor) -> torch.Tensor:
        decoded: torch.Tensor = vae.decode(latents / factor + shift).sample
        return decoded

    return decode


def _pixels(pictures: torch.Tensor) -> list[Pixels]:
    values = ((pictures.permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255)
    return list(values.byte().cpu().numpy())


def _scene_judge(path: Path) -> Callable[[Sequence[Pixels]], list[frozenset[str]]]:
    from miniature.training.scene_classifier import PARTS, as_input, load_classifier
    from miniature.training.scenes import ACCESSORIES, BACKDROPS, MEDIA

    model = load_classifier(path)

    def judge(pictures: Sequence[Pixels]) -> list[frozenset[str]]:
        with torch.no_grad():
            logits = model(as_input(np.stack(pictures)))
        medium, backdrop, worn, number = logits.split(PARTS, 1)
        return [
            frozenset(
                (
                    MEDIA[int(medium[row].argmax())],
                    BACKDROPS[int(backdrop[row].argmax())],
                    *(name for name, score in zip(ACCESSORIES, worn[row].tolist(), strict=True) if score > 0),
                    f"{int(number[row].argmax())} people",
                )
            )
            for row in range(len(pictures))
        ]

    return judge
