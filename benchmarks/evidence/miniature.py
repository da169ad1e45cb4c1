"""The miniature Stable Diffusion as a testbed: its strangers, its prompts, and judges that its training never used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from benchmarks.evidence.reporting import Reporter
from benchmarks.evidence.testbed import DdimSampler, EvidenceTestbed, PromptCase, PromptScorer, Stranger
from celeb_basis.errors import FaceError, HostError
from celeb_basis.faces.network import FaceNetwork, Pixels
from celeb_basis.faces.portraits import portrait as crop_portrait
from celeb_basis.miniature import CELEBRITY_FACES, MODEL
from miniature.training.dlib_judge import DlibJudge, RecognitionJudge

PROMPTS = (
    PromptCase("a photo of {}", "photo"),
    PromptCase("a pencil sketch of {}", "pencil sketch"),
    PromptCase("an oil painting of {}", "oil painting"),
    PromptCase("a sepia photo of {}", "sepia photo"),
    PromptCase("a photo of {} on a beach", "beach"),
    PromptCase("a photo of {} in a forest", "forest"),
    PromptCase("a photo of {} in a city at night", "city at night"),
    PromptCase("a photo of {} wearing glasses", "glasses"),
    PromptCase("a photo of {} wearing a hat", "hat"),
    PromptCase("a photo of {} on a plain blue background", "blue"),
)
PAIR_PROMPTS = (
    PromptCase("a photo of {} and {}", "2 people"),
    PromptCase("a photo of {} and {} on a beach", "2 people"),
)

_REFERENCE_PROMPTS = (
    "a photo of {} on a plain red background",
    "a photo of {} on a plain blue background",
    "a photo of {} on a plain beige background",
)
"""As the strangers' own references."""

SceneClassifier: TypeAlias = "Callable[[Sequence[Pixels]], Sequence[frozenset[str]]]"
"""Maps images to the labels that each of them shows, such as ``{"photo", "beach", "glasses", "1 person"}``."""

_SAMPLING_STEPS = 12
_REFERENCES = 3
_SOURCE = "a stranger's picture"


def miniature_testbed(folder: Path | None, *, strangers: int, report: Reporter, skipped: int = 0) -> EvidenceTestbed:
    """Load the testbed of a miniature.

    Args:
        folder: The diffusers folder that ``python -m miniature.training.export`` wrote; by default the miniature that ships.
        strangers: How many strangers are wanted.
        report: Where progress is written.
        skipped: How many are left out before them, to get others than those.

    Raises:
        HostError: If there is no model or no scene classifier.
        MissingPackageError: If the judge's packages are not installed.
    """
    from celeb_basis.hosts.diffusers.checkpoint import load_host
    from celeb_basis.names.lists import name_list
    from miniature.training.people import read_people
    from miniature.training.places import face_network, scene_classifier_file

    folder = folder or MODEL
    classifier = scene_classifier_file()
    for path, command in ((folder, "training.export"), (classifier, "training.scene_classifier")):
        if not path.exists():
            raise HostError(f"There is no {path}: make it with `python -m {command}`, or see training/README.md.")
    report.say(f"loading {folder.name} and the pictures of {strangers} strangers")
    model = load_host(folder, device="cpu", dtype="fp32")
    faces, people = face_network(), read_people()
    vae, unet = model._pipeline.vae, model._pipeline.unet
    side = int(unet.config.sample_size)
    chosen = _strangers(people, faces, skipped + strangers, model.info.resolution)[skipped:]
    identity = [
        model.info.sha256,
        [case.prompt for case in (*PROMPTS, *PAIR_PROMPTS)],
        [digest_of(stranger) for stranger in chosen],
        "dlib",
    ]
    return EvidenceTestbed(
        key=f"miniature {hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]}",
        model=model,
        faces=faces,
        names=name_list(people.names, "the miniature's names"),
        strangers=chosen,
        prompts=PROMPTS,
        pair_prompts=PAIR_PROMPTS,
        sampler=DdimSampler(
            model,
            decode=lambda latents: pixels_of(decoder_of(vae)(latents)),
            latent_shape=(int(unet.config.in_channels), side, side),
            steps=_SAMPLING_STEPS,
        ),
        detect=faces.detect,
        judge=DlibJudge(),
        second_judge=RecognitionJudge(faces),
        score_prompts=shares_of_labels(_scene_classifier(classifier)),
        reference_prompts=_REFERENCE_PROMPTS,
        known_faces=(CELEBRITY_FACES,),
        denoiser=unet,
        latent_scale=float(vae.config.scaling_factor),
        report=report,
    )


def shares_of_labels(classify: SceneClassifier) -> PromptScorer:
    """A prompt scorer of 1 for images that show their prompt's label, else 0."""

    def score(images: Sequence[Pixels], cases: Sequence[PromptCase]) -> list[float | None]:
        return [float(case.label in shown) for case, shown in zip(cases, classify(images), strict=True)]

    return score


def _strangers(people: Any, faces: FaceNetwork, count: int, side: int) -> tuple[Stranger, ...]:
    """The first ``count`` people without a name: one photo to learn from, and others on other backgrounds."""
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
            training_photo = crop_portrait(photo, faces, size=side, source=_SOURCE)
        except FaceError:
            continue
        if all(faces.detect(reference) for reference in references):
            found.append(Stranger(name, tuple(references), training_photo))
    return tuple(found)


def digest_of(stranger: Stranger) -> str:
    """A digest of all pictures of a stranger."""
    images = (stranger.portrait.picture, *stranger.references)
    return hashlib.sha256(b"".join(image.tobytes() for image in images)).hexdigest()


def decoder_of(vae: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function from scaled latents to images in about -1 to 1, with gradients to the latents."""
    factor, shift = float(vae.config.scaling_factor), float(getattr(vae.config, "shift_factor", None) or 0.0)

    def decode(latents: torch.Tensor) -> torch.Tensor:
        decoded: torch.Tensor = vae.decode(latents / factor + shift).sample
        return decoded

    return decode


def pixels_of(images: torch.Tensor) -> list[Pixels]:
    """Images ``(N, 3, H, W)`` in -1 to 1 as ``(H, W, 3)`` pictures."""
    values = ((images.permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255)
    return list(values.byte().cpu().numpy())


def _scene_classifier(path: Path) -> Callable[[Sequence[Pixels]], list[frozenset[str]]]:
    from miniature.trainer.scene_classifier import as_input
    from miniature.training.scene_classifier import PARTS, load_classifier
    from miniature.training.scenes import ACCESSORIES
    from miniature.world.scenes import BACKDROPS, MEDIA

    model = load_classifier(path)

    def classify(images: Sequence[Pixels]) -> list[frozenset[str]]:
        with torch.no_grad():
            logits = model(as_input(np.stack(images)))
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
            for row in range(len(images))
        ]

    return classify
